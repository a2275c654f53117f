"""What all pages share: their list, the runs they can show, cached tables, charts with a text equivalent."""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.errors import StreamlitAPIException

from lab import figures, views
from lab.core.errors import LabError
from lab.run_folder.run import Run, all_runs, root

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
IN_SHELL = '"$(python -c "import lab; print(lab.__path__[0])")/examples"'  # the same folder, as a shell finds it
SECTIONS = {
    "Learn": [("start", "Start", ":material/home:"), ("learn", "Lessons", ":material/school:")],
    "Experiment": [("train", "Train", ":material/model_training:"), ("jobs", "Jobs", ":material/monitoring:")],
    "Understand": [
        ("compare", "Compare", ":material/compare_arrows:"),
        ("routing", "Routing", ":material/alt_route:"),
        ("playground", "Playground", ":material/experiment:"),
    ],
    "Keep": [("library", "Library", ":material/inventory_2:"), ("about", "About", ":material/info:")],
}
MANY = 12  # runs from which on a picker can be narrowed
RECORDED = "~"  # begins the key of a recorded example; no run id has it
STATUS_ICON = {
    "queued": ":material/schedule:",
    "running": ":material/play_circle:",
    "finished": ":material/check_circle:",
    "stopped": ":material/stop_circle:",
    "interrupted": ":material/pause_circle:",
    "failed": ":material/error:",
    "lost": ":material/link_off:",
    "damaged": ":material/broken_image:",
}
STATUS_COLOUR = {"finished": "green", "running": "blue", "queued": "blue", "failed": "red", "damaged": "red", "lost": "orange"}
SMALL = {"stream.max_train": 60, "stream.max_validation": 20, "stream.max_test": 40, "memory.per_task": 30, "train.epochs": 3}
CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


# -- pages -----------------------------------------------------------------------------------------------------------------


def pages() -> dict[str, list[Any]]:
    """Sections of the navigation with their pages."""
    return {section: [page(name) for name, _, _ in entries] for section, entries in SECTIONS.items()}


def page(name: str) -> Any:
    """The page called `name`, for links."""
    title, icon = next((title, icon) for entries in SECTIONS.values() for key, title, icon in entries if key == name)
    return st.Page(str(HERE / f"{name}.py"), title=title, icon=icon, url_path=name, default=name == "start")


def heading(title: str, about: str) -> None:
    st.title(title, anchor=False)
    st.caption(about)


def plain(text: Any) -> str:
    """Text for markdown that is shown as it is: no formatting, no tags, no icons."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:<>&])", r"\\\1", str(text)).replace("\n", " ")


def how_to_read(text: str) -> None:
    st.caption(f":material/info: {text}")


# -- runs ------------------------------------------------------------------------------------------------------------------


def examples() -> list[Run]:
    """Recorded example runs: those of the package, or of the folder in LAB_EXAMPLES."""
    return views.readable(all_runs(examples_folder()))


def examples_folder() -> Path:
    return Path(os.environ.get("LAB_EXAMPLES") or EXAMPLES)


def damaged_examples() -> None:
    """Name the recorded examples that cannot be read, and what to do."""
    for run in all_runs(examples_folder()):
        if reason := views.problem(run):
            again = "Install the lab again to have it back" if packaged(run) else "Put its files back"
            st.warning(
                plain(f"A recorded example is left out: {reason}. {again}; it is {run.dir}."), icon=":material/broken_image:"
            )


def table(runs: list[Run]) -> pd.DataFrame:
    """`views.runs_table`, read again only for runs whose files or status changed."""
    return _table(tuple((str(run.dir), stamp(run), status(run)) for run in runs))


def status(run: Run) -> str:
    """The derived status, or "damaged"."""
    try:
        return run.status
    except LabError:
        return "damaged"


def stamp(run: Run, *names: str) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of the files a table depends on: the key under which it is kept."""
    found = []
    for name in names or ("run.json", "config.yaml", "matrix.json", "events.jsonl", "notes.json"):
        try:
            stat = (run.dir / name).stat()
            found.append((name, stat.st_mtime_ns, stat.st_size))
        except OSError:
            continue
    return tuple(found)


@st.cache_data(max_entries=20, show_spinner=False)
def _table(keys: tuple[tuple[str, tuple, str], ...]) -> pd.DataFrame:
    return pd.DataFrame([_row(*key) for key in keys], columns=views.columns(), dtype=object)


@st.cache_data(max_entries=2000, show_spinner=False)
def _row(folder: str, stamped: tuple, derived: str) -> dict[str, Any]:
    return views.run_row(Run(Path(folder)))


def choices(needs: Callable[[Run], bool] | None = None) -> dict[str, Run]:
    """Runs to pick from, newest first, recorded examples last: {key: run}; damaged and archived ones are left out."""
    own = {run.id: run for run in reversed(all_runs())}
    known = table(list(own.values()))
    damaged = set(known.loc[known["status"] == "damaged", "run"])
    own = {key: run for key, run in own.items() if key not in damaged and not run.notes["archived"]}
    found = own | {RECORDED + run.id: run for run in examples()}
    return {key: run for key, run in found.items() if needs is None or needs(run)}


def damaged_note() -> None:
    """Name the runs that cannot be read."""
    known = table(all_runs())
    for _, row in known[known["status"] == "damaged"].iterrows():
        st.warning(plain(row["reason"]), icon=":material/broken_image:")


def run_name(key: str) -> str:
    """How a picker shows a run."""
    return f"{key.removeprefix(RECORDED)} (recorded example)" if key.startswith(RECORDED) else key


def link_name(run: Run) -> str:
    """How a picker writes a run into the URL."""
    return run_name(run.id if own(run) else RECORDED + run.id)


def pick_run(label: str, key: str, found: dict[str, Run], first: str) -> Run:
    """A select box over runs, bound to the URL, and where they are many or marked, one that narrows the choice below it; begins
    with the run called `first`."""
    box = st.container()
    kept = only(f"{key}_only", found)
    first = first if first in kept else next(iter(kept))
    restore(key, list(kept), first)
    chosen = box.selectbox(label, list(kept), index=None, format_func=run_name, key=key, bind="query-params")
    return kept[chosen or first]


def only(key: str, found: dict[str, Run]) -> dict[str, Run]:
    """The runs with one of the chosen recipes, one of the streams, one of the tags, and a star, as far as each is asked for."""
    facts = table(list(found.values())).reset_index(drop=True)
    marks = {name: marked(run, facts.loc[place]) for place, (name, run) in enumerate(found.items())}
    offered = sorted(set().union(*marks.values()))
    if len(found) < MANY and not any(mark.startswith(("tag ", "starred")) for mark in offered):
        return found
    forget(key, offered)
    chosen = st.multiselect(
        "Only",
        offered,
        key=key,
        bind="query-params",
        placeholder="All runs",
        help="Offers runs with these recipes, streams, tags or a star only: any of one kind, all of several kinds. "
        "Tags and stars are given in the Library.",
    )
    kinds: dict[str, set[str]] = {}
    for mark in chosen:
        kinds.setdefault(mark.split()[0], set()).add(mark)
    kept = {name: run for name, run in found.items() if all(wanted & marks[name] for wanted in kinds.values())}
    if not kept:
        st.caption("No run has all of this: all runs are offered.")
    return kept or found


def marked(run: Run, facts: "pd.Series[Any]") -> set[str]:
    """What a run can be chosen by, as far as it can be read."""
    found = {f"{name} {facts[name]}" for name in ("recipe", "stream") if isinstance(facts[name], str)}
    with suppress(LabError):
        notes = run.notes
        found |= {f"tag {tag}" for tag in notes["tags"]} | ({"starred"} if notes["starred"] else set())
    return found


def restore(key: str, options: list[str], first: Any) -> None:
    """`begin_with` for what lies in folders: what a link names and is not there is said, until something else is chosen."""
    linked = key not in st.session_state
    missing = begin_with(key, options, first)
    if linked:
        st.session_state[f"{key}/missing"] = missing, st.session_state.get(key)
    missing, then = st.session_state.get(f"{key}/missing", ([], None))
    if missing and st.session_state[key] == then:
        why = "What a link names may be archived or deleted by now, or lie in another folder."
        st.warning(f"Not here: {plain(', '.join(missing))}. {why}", icon=":material/link_off:")


def begin_with(key: str, options: list[str], first: Any) -> list[str]:
    """Fill a bound widget that has no valid choice, so that its choice stands in the URL from the first look on.

    Of several things chosen those that are offered stay. Returns the others.
    """
    many, drawn = isinstance(first, list), key in st.session_state
    known = {run_name(option): option for option in options} | {option: option for option in options}
    given = st.session_state[key] if drawn else st.query_params.get_all(key)
    given = given if isinstance(given, list) else [given]
    missing = [name for name in given if name not in known]
    if missing or not (given or (many and drawn)):
        left = [known[name] for name in given if name in known] or (first if many else [first])
        st.session_state[key] = left if many else left[0]
        with suppress(StreamlitAPIException):  # the link follows by itself once the widget was drawn
            st.query_params[key] = [*map(run_name, left)] if many else run_name(left[0])
    return missing


def forget(key: str, options: list[Any]) -> None:
    """Drop the choice of a widget that is not, or not wholly, among what it now offers."""
    chosen = st.session_state.get(key)
    if chosen is not None and not set(chosen if isinstance(chosen, list) else [chosen]) <= set(options):
        del st.session_state[key]


def nothing_yet(what: str) -> None:
    """The empty state: what is missing and how to make it."""
    st.info(f"{what} Train one from the page below, or on the command line; this page shows it as soon as its folder exists.")
    st.code(f"lab run l2r --stream builtin{where()}", language="bash")
    st.page_link(page("train"), label="Go to Train", icon=":material/model_training:")


# -- charts ----------------------------------------------------------------------------------------------------------------


def chart(figure: go.Figure, key: str, alt: str, **options: Any) -> Any:
    """A Plotly chart in the theme of the page, with its text equivalent."""
    ink = "#FAFAFA" if st.context.theme.type == "dark" else "#1A1D24"  # the theme's grey is lost on the bands of a flow
    figure.update_traces(textfont={"color": ink}, selector={"type": "sankey"})
    return st.plotly_chart(figure, key=key, theme="streamlit", config=CHART, alt=alt, **options)


def card(
    draw: Callable[..., go.Figure],
    *given: Any,
    key: str,
    alt: str,
    table: Callable[..., pd.DataFrame] | None = None,
    read: str = "",
    python: str = "",
    on_click: Callable[[int, int], None] | None = None,
    **named: Any,
) -> None:
    """A chart with what belongs to it: how to read it, its text equivalent, and a popover with Python, command and CSV.

    `draw` is a function of lab.figures and `table` the function of lab.views with its numbers; both are called with `given`
    (`named` go to `draw` only), and the popover writes these very calls down. `python` replaces them where the arguments are
    not runs and plain values. `on_click(row, column)` is called with the cell of a heatmap that was clicked.
    """
    drawn = draw(*given, **named)
    answers = {}
    if on_click:
        figures.clickable(drawn)
        answers = {"on_select": lambda: _clicked(key, on_click), "selection_mode": "points"}
    chart(drawn, key, alt, **answers)
    shown = [run for one in given for run in (one if isinstance(one, list) else [one]) if isinstance(run, Run)]
    numbers = partial(table, *given) if table else None
    foot(key, read, python or python_of(draw, table, given, named), shown, numbers)


def foot(key: str, read: str, python: str, shown: Sequence[Run] = (), numbers: Callable[[], pd.DataFrame] | None = None) -> None:
    """What stands under a chart: how to read it, and a popover with Python, the command for the runs `shown`, and CSV."""
    with st.container(horizontal=True, wrap=False, gap="small", key=f"{key}_foot"):
        if read:
            how_to_read(read)
        with st.popover("Code", icon=":material/code:", type="tertiary", width="content", key=f"{key}_code"):
            st.code(python, language="python")
            if shown:
                st.code(command_of(shown), language="bash")
            if numbers:
                st.download_button(
                    "Numbers as CSV",
                    lambda: numbers().to_csv(),
                    f"{key}.csv",
                    "text/csv",
                    key=f"{key}_csv",
                    icon=":material/download:",
                    on_click="ignore",
                )


def _clicked(key: str, answer: Callable[[int, int], None]) -> None:
    """Pass a click on a cell on; a selection that became empty is no news."""
    points = st.session_state[key].selection.points
    if points:
        answer(int(points[0]["y"]), int(points[0]["x"]))


def python_of(draw: Callable[..., Any], table: Callable[..., Any] | None, given: tuple[Any, ...], named: dict[str, Any]) -> str:
    """The lines that draw a figure outside of the page, and make its table."""
    names: dict[str, str] = {}

    def written(value: Any) -> str:
        if isinstance(value, Run):
            return names.setdefault(opened(value), f"run{len(names) + 1}")
        return f"[{', '.join(map(written, value))}]" if isinstance(value, list) else repr(value)

    positional = [written(value) for value in given]
    call = ", ".join([*positional, *(f"{name}={written(value)}" for name, value in named.items())])
    lines = ["import lab", "", *(f"{name} = {how}" for how, name in names.items()), f"{_public(draw)}({call})"]
    if table and table.__name__ != "<lambda>":
        lines.append(f"{_public(table)}({', '.join(positional)})")
    return "\n".join(lines)


def _public(function: Callable[..., Any]) -> str:
    """Where a function is offered: `lab.views.labels` is made in a module of the package `lab.views`."""
    return ".".join([*function.__module__.split(".")[:2], function.__name__])


def own(run: Run) -> bool:
    """Whether a run stands in the folder of runs; else it is a recorded example."""
    return run.dir.parent.resolve() == root().resolve()


def opened(run: Run) -> str:
    """The expression that opens a run, wherever it is evaluated."""
    if packaged(run):
        return f"lab.Run.open({run.id!r}, lab.__path__[0] + '/examples')"
    return f"lab.Run.open({', '.join(map(repr, [run.id, *folder_of(run)]))})"


def command_of(runs: Sequence[Run], option: str = "--json") -> str:
    """The command that prints the results of these runs, or with another `option` does more, wherever it is typed."""
    places = {run: IN_SHELL if packaged(run) else "".join(map(shlex.quote, folder_of(run))) for run in runs}
    several = len(set(places.values())) > 1
    names = [f"{place}/{run.id}" if several and place else run.id for run, place in places.items()]
    folder = "" if several else "".join(f" --runs {place}" for place in {*places.values()} if place)
    return f"lab {'show' if len(names) == 1 else 'compare'} {' '.join(names)} {option}{folder}"


def where() -> str:
    """What a command needs in addition to find the runs of this page; nothing for ./runs, where it looks anyway."""
    return f" --runs {shlex.quote(str(root().resolve()))}" if os.environ.get("LAB_RUNS") else ""


def packaged(run: Run) -> bool:
    """Whether a run is a recorded example of the package, which is elsewhere on another machine."""
    return run.dir.parent.resolve() == EXAMPLES.resolve()


def folder_of(run: Run) -> list[str]:
    """The folder that has to be named to find a run; none for ./runs, where it is looked for anyway."""
    usual = own(run) and not os.environ.get("LAB_RUNS")
    return [] if usual else [str(run.dir.parent.resolve())]


def number(value: float | None, form: str = "{:.3f}") -> str:
    return "–" if value is None or value != value else form.format(value)


def after_slider(tasks: list[str], key: str, learned: int) -> int:
    """ "After task k", bound to the URL; returns the index of the last learned task."""
    if learned < 2:
        return learned - 1
    chosen = st.slider("After task", 1, learned, learned, key=key, bind="query-params", help="Moves every chart to this moment.")
    st.caption(f"After learning task {chosen} of {len(tasks)}: **{plain(tasks[chosen - 1])}**")
    return chosen - 1


def moment(run: Run, moments: list[int], key: str, about: str) -> int:
    """The moment that is looked at, one of `moments` of a run; bound to the URL, there as "after task k"."""
    if len(moments) == 1:
        return moments[0]
    options = [k + 1 for k in moments]
    forget(key, options)
    chosen = st.select_slider("After task", options, options[-1], key=key, bind="query-params", help=about)
    st.caption(f"After learning task {chosen} of {len(run.tasks)}: **{plain(run.tasks[chosen - 1])}**")
    return chosen - 1


@contextmanager
def section() -> Iterator[None]:
    """A part of a page that says why it cannot be shown, and leaves the other parts alone."""
    try:
        yield
    except (LabError, OSError) as error:
        st.warning(plain(error), icon=":material/broken_image:")


def status_badge(state: str) -> None:
    st.badge(state, icon=STATUS_ICON.get(state), color=STATUS_COLOUR.get(state, "gray"))
