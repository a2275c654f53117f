"""A comparison as one HTML file that opens anywhere: tables, matrices, curves, routing, settings and commands.

Nothing is loaded from elsewhere: style, data and plotly.js stand in the file. It follows the reader's light or dark setting.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lab import __version__, figures, views
from lab.comparison import replicates, tables
from lab.config.resolve import command_line
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.figures import methods
from lab.run_folder.run import Run, now

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --page: #ffffff; --shade: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #343b44; --page: #12161c; --shade: #1b2129 }
}
body { font: 15px/1.5 "Source Sans Pro", "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink); background: var(--page);
       max-width: 1240px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 28px; margin: 0 } h2 { font-size: 21px; margin: 40px 0 8px; border-top: 1px solid var(--line); padding-top: 18px }
h3 { font-size: 16px; margin: 18px 0 4px; overflow-wrap: anywhere } p, li { max-width: 90ch }
.soft, figcaption { color: var(--soft) } figure { margin: 0; min-width: 0 }
figcaption { font-size: 13px } .wide { overflow-x: auto } ul { padding-left: 20px }
select { font: inherit; color: inherit; background: var(--shade); border: 1px solid var(--line); border-radius: 4px }
[hidden] { display: none }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); gap: 8px 24px }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600; background: var(--shade); vertical-align: bottom } thead th { white-space: normal; min-width: 74px }
tbody th, thead th:first-child { text-align: left; position: sticky; left: 0 } .text td { text-align: left; white-space: normal }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: 6px; padding: 10px; white-space: pre-wrap;
      overflow-wrap: anywhere; font-size: 13px }
"""

# Draws each figure in the colour of the text, and again when the reader's setting changes.
SCRIPT = """
const figures = JSON.parse(document.getElementById('figures').textContent), dark = matchMedia('(prefers-color-scheme: dark)');
function draw() {
  const color = getComputedStyle(document.body).color;
  figures.forEach((f, i) => Plotly.react('figure-' + i, f.data, {...f.layout, font: {...f.layout.font, color}},
                                         {displaylogo: false, responsive: true, displayModeBar: false}));
}
for (const choice of document.querySelectorAll('select')) {
  const offered = [...choice.closest('div').querySelectorAll('figure')];
  const show = () => offered.forEach((f, i) => {
    f.hidden = i !== choice.selectedIndex;
    if (!f.hidden) Plotly.Plots.resize(f.firstChild);
  });
  choice.addEventListener('change', show);
}
draw();
dark.addEventListener('change', draw);
"""


class Page:
    """HTML in the making: `parts` in order, and the figures that its script will draw."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.figures: list[go.Figure] = []

    def add(self, tag: str, text: str, kind: str = "") -> None:
        """A text element; the text is shown as it is."""
        self.parts.append(f"<{tag}{f' class={kind}' if kind else ''}>{escape(text)}</{tag}>")

    def table(self, table: pd.DataFrame, kind: str = "", greyed: Sequence[bool] = ()) -> None:
        """A table of texts that scrolls on its own where it is wide; the rows `greyed` say what may not be claimed."""
        kinds = [" class=soft" if grey else "" for grey in greyed or [False] * len(table)]
        name = escape(" ".join(str(n) for n in [table.index.name] if n))
        head = "".join(f"<th scope=col>{escape(str(title))}</th>" for title in table.columns)
        rows = [
            f"<tr{grey}><th scope=row>{escape(str(label))}</th>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
            for grey, label, cells in zip(kinds, table.index, table.to_numpy(), strict=True)
        ]
        body = f"<thead><tr><th scope=col>{name}</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        self.parts.append(f"<div class=wide tabindex=0><table class='{kind}'>{body}</table></div>")

    def figure(self, drawn: go.Figure, alt: str, hidden: bool = False) -> None:
        """A figure and its text equivalent; a hidden one is shown when the reader chooses it."""
        about = f'role=img aria-label="{escape(alt)}" style="height: {drawn.layout.height}px"'
        place = f"<div id=figure-{len(self.figures)} {about}></div>"
        self.parts.append(f"<figure{' hidden' if hidden else ''}>{place}<figcaption>{escape(alt)}</figcaption></figure>")
        self.figures.append(drawn)

    def choice(self, label: str, figures: Mapping[str, tuple[go.Figure, str]]) -> None:
        """Figures of which the reader chooses one by its title; the first is shown."""
        options = "".join(f"<option>{escape(title)}</option>" for title in figures)
        self.parts.append(f"<div><label>{escape(label)} <select autocomplete=off>{options}</select></label>")
        for place, (drawn, alt) in enumerate(figures.values()):
            self.figure(drawn, alt, hidden=place > 0)
        self.parts.append("</div>")

    def html(self, title: str) -> str:
        # in a script element only "<" could end it, and JSON may write it as an escape
        data = ",".join(drawn.to_json() for drawn in self.figures).replace("<", "\\u003c")
        return (
            f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
            + "\n".join(self.parts)
            + f"\n<script type=application/json id=figures>[{data}]</script>"
            + f"\n<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script></body></html>\n"
        )


def check(path: Path) -> None:
    """LabError if no file can be written there; nothing is left behind."""
    folder = path.parent
    reason = "it is a folder" if path.is_dir() else "" if folder.is_dir() else f"there is no folder {folder}"
    if not reason and not os.access(path if path.exists() else folder, os.W_OK):
        reason = "permission denied"
    if reason:
        raise LabError(f"the report {path} cannot be written: {reason}")


def write(runs: Sequence[Run], path: Path, excluded: Mapping[str, str] | None = None) -> None:
    """Write the report of `runs` to `path`; `excluded` are ids of runs that were left out, with the reason."""
    check(path)
    try:
        atomic_io.replace_bytes(path, html(runs, excluded or {}).encode())
    except OSError as error:
        raise LabError(f"the report {path} cannot be written: {error.strerror}") from error


def html(runs: Sequence[Run], excluded: Mapping[str, str]) -> str:
    """The report as text."""
    page = Page()
    named = list(zip(views.labels(runs), runs, strict=True))
    names = ", ".join(name for name, _ in named)
    page.add("h1", "Comparison of runs")
    page.add("p", f"{names}. Written {now()[:16].replace('T', ' ')} UTC by lab {__version__}.", "soft")
    for id, reason in excluded.items():
        page.add("p", f"Left out: {id}. {reason}")
    for sentence in views.unequal(runs):
        page.add("p", sentence)
    _numbers(page, runs)
    _curves(page, runs)
    _order(page, runs)
    _rates(page, runs)
    for title, (draw, about) in SECTIONS.items():
        _each(page, title, named, draw, about)
    _settings(page, runs, named)
    return page.html(f"Comparison: {names}")


def _numbers(page: Page, runs: Sequence[Run]) -> None:
    page.add("h2", "Numbers")
    table, notes = tables.comparison(runs)
    page.table(table)
    page.parts.append("<ul class=soft>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
    _differences(page, runs)
    page.add("h3", "Accuracy against cost")
    known = [measure for measure in tables.COSTS if not tables.pareto(runs, measure.path)["cost"].isna().all()]
    if known:
        known.sort(key=lambda measure: measure.path != "cost.stored_bytes")
        page.choice("Cost:", {m.title: (figures.pareto(runs, m.path), _verdict(runs, m)) for m in known})
    else:
        page.add("p", "No cost is measured yet.")


def _differences(page: Page, runs: Sequence[Run]) -> None:
    baseline = replicates.reference(runs)
    found = replicates.differences(runs, baseline)
    if found.empty:
        return
    page.add("h3", f"Paired differences to {baseline}")
    page.add(
        "p",
        "Each run minus the baseline's run of the same seed and order, with the 95 % interval and the p of the exact "
        "permutation test. Grey: the interval includes zero, or there is none, so no sign may be claimed. Nothing is corrected "
        "for the number of comparisons.",
        "soft",
    )
    titles = {measure.path: measure.title for measure in replicates.compared(runs)}
    claimed = found["claim"].eq(True)
    said = {
        "measure": found["measure"].map(titles),
        "pairs": found["n"],
        "difference": found["mean"].map("{:+.3f}".format),
        "95 % interval": [f"[{low:+.3f}, {high:+.3f}]" if low == low else "" for low, high in found[["low", "high"]].to_numpy()],
        "p": found["p"].map("{:.3f}".format),
        "claim": ["yes" if claim else "no" for claim in claimed],
        "why": found["why"],
    }
    table = pd.DataFrame(said).set_index(found["label"].rename("method")).replace({"nan": "–", "+nan": "–", "": "–"})
    page.table(table, greyed=list(~claimed))


def _order(page: Page, runs: Sequence[Run]) -> None:
    """What the order of the tasks changes, where runs have several."""
    if replicates.positions(runs)["mean"].isna().all():
        return
    page.add("h2", "Order of the tasks")
    page.figure(methods.positions(runs), "Above zero: tasks learned at this place end higher than the same tasks elsewhere.")
    page.table(_rounded(replicates.orders(runs)))


def _rates(page: Page, runs: Sequence[Run]) -> None:
    """The sweep of the learning rate, where runs hold one."""
    found = replicates.sweep(runs)
    if found.empty:
        return
    page.add("h2", "Learning rates")
    page.figure(methods.sweep(runs), "Mean score on validation examples by learning rate; a ring marks what selection takes.")
    found["value"] = found["value"].map("{:g}".format)
    page.table(_rounded(found.drop(columns="recipe").assign(best=found["best"].map({True: "yes", False: "no"}))))


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """A table with one row per entry of its column "label", its fractions as text."""
    titles = {measure.path: measure.title.lower() for measure in views.judged()}
    shown = titles | {"label": "method", "low": "from", "high": "to", "value": "train.lr"}
    fractions = table.select_dtypes("float").columns
    texts = table.assign(**{name: table[name].map("{:.3f}".format).replace("nan", "–") for name in fractions})
    return texts.rename(columns=shown).set_index("method")


def _verdict(runs: Sequence[Run], cost: views.Measure) -> str:
    """Who is dominated, in words."""
    rows = tables.pareto(runs, cost.path).itertuples()
    said = [f"{row.label} is dominated by {row.dominated_by}" for row in rows if row.dominated_by] or ["nobody is dominated"]
    return (
        f"By {cost.title.lower()}, {'; '.join(said)}. Faint: dominated. Hollow: uses the task identity, and dominates only such."
    )


def _curves(page: Page, runs: Sequence[Run]) -> None:
    page.add("h2", "Average over the stream")
    page.figure(figures.average_curves(runs), "After each task, the mean score on all tasks learned so far.")


def _each(page: Page, title: str, named: Sequence[tuple[str, Run]], draw: Callable[[Page, str, Run], None], about: str) -> None:
    """A section with one block per run; a run without the files for it says so."""
    page.add("h2", title)
    page.add("p", about, "soft")
    page.parts.append("<div class=columns>")
    for name, run in named:
        page.parts.append("<div>")
        page.add("h3", name)
        try:
            draw(page, name, run)
        except LabError as error:
            page.add("p", str(error))
        page.parts.append("</div>")
    page.parts.append("</div>")


def _matrix(page: Page, name: str, run: Run) -> None:
    measure, metrics = views.headline(), run.metrics()
    value = metrics[measure.path]
    reached = metrics["why"][measure.path] if value is None else f"{measure.title.lower()} {value:.3f}"
    page.figure(figures.accuracy_matrix(run), f"Score matrix of {name}, {reached}.")


def _forgetting(page: Page, name: str, run: Run) -> None:
    page.figure(figures.forgetting_curves(run), f"Score of each task of {name} after each learned task.")


def _interference(page: Page, name: str, run: Run) -> None:
    table = tables.interference_matrix(run)
    if table.isna().all(axis=None):
        raise LabError("needs at least two learned tasks")
    learned, task = table.stack().idxmax()
    worst = f"learning {learned} cost {task} {table.at[learned, task]:.3f}"
    page.figure(figures.interference(run), f"Interference in {name}; the largest: {worst}.")


def _decomposition(page: Page, name: str, run: Run) -> None:
    table = tables.decomposition(run)
    mean = ", ".join(f"{title.lower()} {table.at['mean', term]:.3f}" for term, title in _terms(table))
    page.figure(figures.decomposition(run), f"{name} lost {table.at['mean', 'loss']:.3f} on average: {mean}.")
    for term, reason in table.attrs["why"].items():
        page.add("p", f"No {tables.TERMS[term].lower()}: {reason}.", "soft")


def _terms(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The terms that exist."""
    return ((term, title) for term, title in tables.TERMS.items() if not table[term].isna().all())


def _routing(page: Page, name: str, run: Run) -> None:
    if len(run.routing().experts) < 2:
        raise LabError("there is one expert: nothing to route")
    page.figure(figures.routing_by_task(run), f"Share of each expert on each task of {name}.")
    page.figure(figures.routing_confusion(run), f"First choice on each task of {name}.")
    page.figure(figures.routing_drift(run), f"Drift of the shares of {name} since each task was learned.")


SECTIONS = {
    "Matrices": (
        _matrix,
        "Rows are moments, columns are tasks; going down a column shows what became of a task. The colour range is 0 to 1 in "
        "every matrix.",
    ),
    "Each task over time": (_forgetting, "One line per task, from the moment it was learned."),
    "Which task cost which": (
        _interference,
        "Going down a column shows what each later task cost this one; the column sums to what it lost since it was learned. "
        "Negative numbers are gains.",
    ),
    "Where did it go?": (
        _decomposition,
        "What each old task lost, split by looking back: growth of the router's error (lost since routing is not perfect), "
        "expert drift, drift of the classifier's old rows, and new classes that compete. The grey mark is the whole loss; pieces "
        "left of zero were gained.",
    ),
    "Routing": (
        _routing,
        "Shares are of the routing weight; the first choice counts the largest weight of each layer and routing head; drift is "
        "the change of the shares since each task was learned.",
    ),
}


def _settings(page: Page, runs: Sequence[Run], named: Sequence[tuple[str, Run]]) -> None:
    page.add("h2", "Settings that differ")
    table = views.config_difference(runs)
    if len(runs) > 1 and not table.empty:
        page.table(table, "text")
    else:
        page.add("p", "None." if len(runs) > 1 else "There is one run only.")
    page.add("h2", "How to make these runs again")
    page.add("p", "On an equal machine with equal versions the same command gives the same numbers.", "soft")
    for name, run in named:
        page.add("h3", name)
        try:
            page.add("pre", command_line(run.config))
        except LabError as error:
            page.add("p", str(error))
        page.add("p", _environment(run), "soft")


def _environment(run: Run) -> str:
    """Versions and machine in one line."""
    found = run.environment
    packages = found.get("packages", {})
    versions = [f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages]
    parts = [f"run {run.id}", f"lab {found.get('lab', 'unknown')}", f"Python {found.get('python', 'unknown')}", *versions]
    return ", ".join([*parts, f"{found.get('system', 'unknown system')}, {found.get('cores', 'unknown')} cores"])
