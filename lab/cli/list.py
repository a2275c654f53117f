"""`lab list`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.completion import BACKBONES
from lab.cli.options import Json, Runs, Section, command, quiet
from lab.cli.output import print_names, print_table, show_json
from lab.core.errors import LabError, unknown

LISTS = (
    "recipes",
    "streams",
    "routers",
    "methods",
    "consolidations",
    "experts",
    "protocols",
    "metrics",
    "backbones",
    "trackers",
    "runs",
    "trash",
)


@command(Section.LOOK)
def list_(
    what: Annotated[
        str,
        typer.Argument(metavar="WHAT", help=", ".join(LISTS), autocompletion=lambda incomplete: [(name, "") for name in LISTS]),
    ],
    wide: Annotated[bool, typer.Option("--wide", help="everything that is known: options, and the map of recipes")] = False,
    examples: Annotated[bool, typer.Option("--examples", help="of runs: the recorded examples")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """What there is: lab list recipes"""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    if examples and what != "runs":
        raise LabError(f"--examples is about runs, not {what}: lab list runs --examples")
    if what == "runs":
        from lab.run_folder.run import examples as recorded
        from lab.store import index

        rows = [listed(row) for row in index.rows(index.runs(recorded() if examples else runs))]
        show_json(rows) if as_json else print_table(rows if wide else [shown(row) for row in rows])
        if not rows and not (examples or quiet()):
            print("lab list runs --examples shows recorded examples", file=sys.stderr)
    elif what == "trash":
        from lab.store import trash

        rows = [entry.row() for entry in trash.entries(runs)]
        show_json(rows) if as_json else print_table(rows)
    elif as_json or wide:
        rows = listing(what) + saved(what, runs)
        show_json(rows) if as_json else print_table(rows)
    else:
        print_names(names(what) + saved(what, runs))


def names(what: str) -> list[dict[str, Any]]:
    """Name and sentence of everything in a list, without loading any of it."""
    if what == "recipes":
        from lab.config.resolve import GROUPS, recipes

        rows = [{name: recipe[name] for name in ("name", "group", "about", "paper")} for recipe in recipes()]
        return sorted(rows, key=lambda row: GROUPS.index(row["group"]))
    if what == "backbones":
        return [{"name": name, "about": about} for name, about in BACKBONES.items()]
    from lab.core import registry

    kind = getattr(registry, what)
    return [{"name": name, "about": kind.about(name)} for name in kind.names()]


def listing(what: str) -> list[dict[str, Any]]:
    """The rows of `lab list --json`, each with a `name`. Those of recipes, routers, methods and experts load torch."""
    if what == "recipes":
        from lab.analysis import taxonomy

        axes = {row.pop("recipe"): row for row in taxonomy.table()}
        return [
            {"name": row["name"], "group": row["group"], **axes[row["name"]], "about": row["about"], "paper": row["paper"]}
            for row in names(what)
        ]
    if what == "backbones":
        return names(what)
    from lab.core import registry

    kind = getattr(registry, what)
    rows = []
    for name in kind.names():
        try:
            plugin = kind.get(name)
        except LabError as error:  # one broken file hides no other
            rows.append({"name": name, "error": str(error)})
            continue
        row = {"name": name, "about": plugin.about()}
        if what == "streams":
            row["orders"] = {title: [*tasks] for title, tasks in plugin.orders.items()}
        else:
            fields = plugin.Options.model_fields
            row["options"] = {field: info.description or "" for field, info in fields.items() if field != "name"}
        if what == "metrics":
            metric = plugin()
            row |= {"title": metric.title, "path": metric.path, "formula": metric.latex, "direction": metric.direction}
        rows.append(row)
    return rows


def saved(what: str, runs: Path | None) -> list[dict[str, Any]]:
    """In the list of streams, those of people's own data that are saved among the runs."""
    if what != "streams":
        return []
    from lab.data.saved_stream import open_saved, saved_names

    streams = [open_saved(name, runs) for name in saved_names(runs)]
    return [{"name": stream.name, "about": f"saved data: {', '.join(stream.names())}", "orders": {}} for stream in streams]


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `lab list runs` as it fits a terminal: names in place of ids, scores by their titles, no scenario."""
    from lab.metrics.base import judged_metrics

    titles = {metric.path: metric.title.lower() for metric in judged_metrics()}
    named = row | {"name": row["called"] or row["name"]}
    return {titles.get(name, name): value for name, value in named.items() if name not in ("called", "scenario")}


def listed(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a run in `lab list runs`: `name` is its id, `called` what people call it; of a damaged run with the reason."""
    if row["status"] == "damaged":
        return {"name": row["run"], "called": None, "status": "damaged", "error": row["reason"]}
    from lab.metrics.base import judged_metrics

    names = ("status", "recipe", "stream", "scenario", "seed", *(metric.path for metric in judged_metrics()))
    return {"name": row["run"], "called": row["name"] or None} | {name: row[name] for name in names}
