"""A comparison as one HTML file that opens anywhere: tables, matrices, curves, routing, settings and commands.

Nothing is loaded from elsewhere: style, data and plotly.js stand in the file. It follows the reader's light or dark setting. What
it looks like stands in report.html.jinja; here is what it says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lab import __version__, figures, views
from lab.comparison import replicates, tables
from lab.config.resolve import command_line
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.figures import methods
from lab.run_folder.run import Run
from lab.run_folder.writer import now

TEMPLATE = Path(__file__).with_name("report.html.jinja")
CURVES = {  # by measure
    "average_accuracy": "After each task, the mean score on all tasks learned so far.",
    "forgetting": "After each task, the mean of what the old tasks have lost.",
}
LOSSES = "Training loss, smoothed, over the share of the optimiser steps."


@dataclass(frozen=True)
class Figure:
    """A figure, its number on the page and its text equivalent."""

    number: int
    drawn: go.Figure
    alt: str

    @property
    def height(self) -> int:
        """In pixels."""
        layout: Any = self.drawn.layout
        return layout.height


class Figures(list[Figure]):
    """All figures of a page, in order; the page's script draws them by their numbers."""

    def new(self, drawn: go.Figure, alt: str) -> Figure:
        self.append(Figure(len(self), drawn, alt))
        return self[-1]

    def to_json(self) -> str:
        # in a script element only "<" could end it, and JSON may write it as an escape
        return f"[{','.join(str(figure.drawn.to_json()) for figure in self)}]".replace("<", "\\u003c")


@dataclass(frozen=True)
class Row:
    """A row of a table; what is grey may not be claimed."""

    label: str
    cells: list[str]
    grey: bool


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    corner: str  # what the rows are
    columns: list[str]
    rows: list[Row]


@dataclass
class Block:
    """What a section says of one run: figures of `page` and notes, or why there are none."""

    name: str
    page: Figures
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str = ""

    def show(self, drawn: go.Figure, alt: str) -> None:
        self.figures.append(self.page.new(drawn, alt))


def check(path: Path) -> None:
    """LabError if no report can be written there; nothing is left behind."""
    atomic_io.check_writable(path, "report")


def write(runs: Sequence[Run], path: Path, excluded: Mapping[str, str] | None = None) -> None:
    """Write the report of `runs` to `path`; `excluded` are ids of runs that were left out, with the reason."""
    check(path)
    try:
        atomic_io.replace_bytes(path, html(runs, excluded or {}).encode())
    except OSError as error:
        raise LabError(f"the report {path} cannot be written: {error.strerror}") from error


def html(runs: Sequence[Run], excluded: Mapping[str, str]) -> str:
    """The report as text; `excluded` are ids of runs that were left out, with the reason."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(_content(runs, excluded)) + "\n"


def _content(runs: Sequence[Run], excluded: Mapping[str, str]) -> dict[str, Any]:
    """What the template shows."""
    named = list(zip(views.labels(runs), runs, strict=True))
    page = Figures()
    numbers, notes = tables.comparison(runs)
    baseline = replicates.reference(runs)
    rates, differing = replicates.sweep(runs), views.config_difference(runs)
    ordered = bool(replicates.positions(runs)["mean"].notna().any())
    selection = "Mean score on validation examples by learning rate; a ring marks what selection takes."
    effect = "Above zero: tasks learned at this position have a higher final score than the same tasks at other positions."
    return {
        "names": ", ".join(name for name, _ in named),
        "written": now()[:16].replace("T", " "),
        "version": __version__,
        "excluded": excluded,
        "unequal": views.unequal(runs),
        "numbers": _table(numbers),
        "notes": notes,
        "baseline": baseline,
        "differences": _differences(runs, baseline),
        "costs": _costs(page, runs),
        "scores": page.new(figures.scores_of_methods(runs), _scores(runs)),
        "curves": [page.new(figures.average_curves(runs, measure=path), about) for path, about in CURVES.items()],
        "losses": page.new(figures.loss_curves(runs), LOSSES) if any(len(views.losses(run)) for run in runs) else None,
        "orders": _table(_rounded(replicates.orders(runs))) if ordered else None,
        "positions": page.new(methods.positions(runs), effect) if ordered else None,
        "rates": None if rates.empty else _table(_rates(rates)),
        "sweep": None if rates.empty else page.new(methods.sweep(runs), selection),
        "sections": [_section(page, title, named) for title in SECTIONS],
        "settings": _table(differing) if len(runs) > 1 and not differing.empty else None,
        "commands": [_command(name, run) for name, run in named],
        "figures": page.to_json(),
        "plotly": get_plotlyjs(),
    }


def _table(table: pd.DataFrame, grey: Sequence[bool] = ()) -> Table:
    """Cells as text; the rows `grey` may not be claimed."""
    labels, rows = [str(label) for label in table.index], [[str(cell) for cell in row] for row in table.to_numpy()]
    kinds = grey or [False] * len(rows)
    return Table(str(table.index.name or ""), [str(title) for title in table.columns], [*map(Row, labels, rows, kinds)])


def _scores(runs: Sequence[Run]) -> str:
    """The scores by which methods are judged, in words."""
    table: Any = views.summary(runs).set_index(["measure", "label"])["value"]
    titles = {measure.path: measure.title for measure in views.judged()[:2]}
    values = (
        f"{title}: " + ", ".join(f"{label} {'–' if value != value else f'{value:.2f}'}" for label, value in table[path].items())
        for path, title in titles.items()
    )
    return f"In the end. {'; '.join(values)}. Bars end in the 95 % interval where there are several runs."


def _costs(page: Figures, runs: Sequence[Run]) -> dict[str, Figure]:
    """Accuracy against each cost that is known, by its title; stored bytes first."""
    measured = [measure for measure in tables.COSTS if bool(tables.pareto(runs, measure.path)["cost"].notna().any())]
    measured.sort(key=lambda measure: measure.path != "cost.stored_bytes")
    return {measure.title: page.new(figures.pareto(runs, measure.path), _verdict(runs, measure)) for measure in measured}


def _differences(runs: Sequence[Run], baseline: str) -> Table | None:
    """Paired differences to the baseline; None where there is nobody to compare with it."""
    pairs: Any = replicates.differences(runs, baseline)
    if pairs.empty:
        return None
    titles = {measure.path: measure.title for measure in replicates.compared(runs)}
    claimed = pairs["claim"].eq(True)
    columns = {
        "measure": pairs["measure"].map(titles),
        "pairs": pairs["n"],
        "difference": pairs["mean"].map("{:+z.3f}".format),
        "95 % interval": [
            f"[{low:+z.3f}, {high:+z.3f}]" if low == low else "" for low, high in pairs[["low", "high"]].to_numpy()
        ],
        "p": pairs["p"].map("{:.3f}".format),
        "claim": ["yes" if claim else "no" for claim in claimed],
        "why": pairs["why"],
    }
    table = pd.DataFrame(columns).set_index(pairs["label"].rename("method")).replace({"nan": "–", "+nan": "–", "": "–"})
    return _table(table, list(~claimed))


def _rates(sweep: Any) -> pd.DataFrame:
    """The sweep of the learning rate as text."""
    rates, best = sweep["value"].map("{:g}".format), sweep["best"].map({True: "yes", False: "no"})
    return _rounded(sweep.drop(columns="recipe").assign(value=rates, best=best))


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """A table with one row per entry of its column "label", its fractions as text."""
    titles = {measure.path: measure.title.lower() for measure in views.judged()}
    shown = titles | {"label": "method", "low": "from", "high": "to", "value": "train.lr"}
    fractions = table.select_dtypes("float").columns
    texts = table.assign(**{name: table[name].map("{:.3f}".format).replace("nan", "–") for name in fractions})
    return texts.rename(columns=shown).set_index("method")


def _verdict(runs: Sequence[Run], cost: views.Measure) -> str:
    """Who is dominated, in words."""
    rows: Any = tables.pareto(runs, cost.path).itertuples()
    verdicts = [f"{row.label} is dominated by {row.dominated_by}" for row in rows if row.dominated_by]
    legend = "Faint: dominated. Hollow: uses the task identity, and dominates only such."
    return f"By {cost.title.lower()}, {'; '.join(verdicts) or 'no method is dominated'}. {legend}"


def _section(page: Figures, title: str, named: Sequence[tuple[str, Run]]) -> dict[str, Any]:
    """A section with one block per run; a run without the files for it says so."""
    fill, about = SECTIONS[title]
    blocks = []
    for name, run in named:
        block = Block(name, page)
        try:
            fill(block, run)
        except LabError as error:
            block.missing = str(error)
        blocks.append(block)
    return {"title": title, "about": about, "blocks": blocks}


def _matrix(block: Block, run: Run) -> None:
    measure, metrics = views.headline(), run.metrics()
    value = metrics[measure.path]
    reached = metrics["why"][measure.path] if value is None else f"{measure.title.lower()} {value:.3f}"
    block.show(figures.accuracy_matrix(run), f"Score matrix of {block.name}, {reached}.")


def _forgetting(block: Block, run: Run) -> None:
    block.show(figures.forgetting_curves(run), f"Score of each task of {block.name} after each learned task.")


def _interference(block: Block, run: Run) -> None:
    table = tables.interference_matrix(run)
    if table.isna().all(axis=None):
        raise LabError("needs at least two learned tasks")
    costs: Any = table.stack()
    learned, task = costs.idxmax()
    worst = f"learning {learned} cost {task} {table.at[learned, task]:.3f}"
    block.show(figures.interference(run), f"Interference in {block.name}; the largest: {worst}.")


def _decomposition(block: Block, run: Run) -> None:
    table = tables.decomposition(run)
    mean = ", ".join(f"{title.lower()} {table.at['mean', term]:.3f}" for term, title in _terms(table))
    block.show(figures.decomposition(run), f"{block.name} lost {table.at['mean', 'loss']:.3f} on average: {mean}.")
    for term, reason in table.attrs["why"].items():
        block.notes.append(f"No {tables.TERMS[term].lower()}: {reason}.")


def _terms(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The terms that exist."""
    return ((term, title) for term, title in tables.TERMS.items() if bool(table[term].notna().any()))


def _routing(block: Block, run: Run) -> None:
    if len(run.routing().experts) < 2:
        raise LabError("there is one expert: nothing to route")
    block.show(figures.routing_by_task(run), f"Share of each expert on each task of {block.name}.")
    block.show(figures.routing_confusion(run), f"First choice on each task of {block.name}.")
    block.show(figures.routing_drift(run), f"Drift of the shares of {block.name} since each task was learned.")


SECTIONS: dict[str, tuple[Callable[[Block, Run], None], str]] = {
    "Matrices": (
        _matrix,
        "Rows are moments, columns are tasks; going down a column shows what became of a task. The colour range is 0 to 1 in "
        "every matrix.",
    ),
    "Each task over time": (_forgetting, "One line per task, from the moment it was learned."),
    "Which new task hurt which old one": (
        _interference,
        "Going down a column shows what each later task cost this one; the column sums to what it lost since it was learned. "
        "Negative numbers are gains.",
    ),
    "Why was it forgotten?": (
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


def _command(name: str, run: Run) -> dict[str, str]:
    """The command that makes a run again, or why there is none."""
    try:
        line, missing = command_line(run.config), ""
    except LabError as error:
        line, missing = "", str(error)
    return {"name": name, "line": line, "missing": missing, "environment": _environment(run)}


def _environment(run: Run) -> str:
    """Versions and machine in one line."""
    made_on = run.environment
    packages = made_on.get("packages", {})
    versions = [f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages]
    parts = [
        f"run {run.id}" + (f", called {run.title}" if run.title != run.id else ""),
        f"lab {made_on.get('lab', 'unknown')}",
        f"Python {made_on.get('python', 'unknown')}",
        *versions,
    ]
    return ", ".join([*parts, f"{made_on.get('system', 'unknown system')}, {made_on.get('cores', 'unknown')} cores"])
