"""`lab list`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.options import Json, Runs, Section, command
from lab.cli.output import print_table, show_json
from lab.core.errors import LabError, unknown
from lab.run_folder.run import Run, all_runs

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
    "runs",
    "trash",
)


@command(Section.LOOK)
def list_(what: Annotated[str, typer.Argument(help=", ".join(LISTS))], runs: Runs = None, as_json: Json = False) -> None:
    """What there is: lab list recipes"""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    rows = listing(what, runs)
    show_json(rows) if as_json else print_table(rows)


def listing(what: str, runs: Path | None) -> list[dict[str, Any]]:
    """The rows of `lab list`, each with a `name`. The lists of recipes and plug-ins load torch, the others do not."""
    if what == "recipes":
        from lab.analysis import taxonomy
        from lab.config.resolve import recipes

        axes = {row.pop("recipe"): row for row in taxonomy.table()}
        return [{"name": recipe["name"], **axes[recipe["name"]], "about": recipe["about"]} for recipe in recipes()]
    if what == "backbones":
        return [
            {"name": "minilm", "about": "all-MiniLM-L6-v2, 22M parameters, shipped with the package; the default"},
            {"name": "tiny", "about": "a random two-layer encoder for tests"},
            {"name": "strings", "about": "a small decoder that knows basic string skills; goes with the stream strings"},
            {"name": "owner/model or folder", "about": "any encoder or decoder, of the hub or a folder"},
        ]
    if what == "runs":
        return [listed(run) for run in all_runs(runs)]
    if what == "trash":
        from lab.store import trash

        return [entry.row() for entry in trash.entries(runs)]
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
        rows.append(row)
    return rows + (saved(runs) if what == "streams" else [])


def saved(runs: Path | None) -> list[dict[str, Any]]:
    """The streams of people's own data among the runs."""
    from lab.data.saved_stream import open_saved, saved_names

    streams = [open_saved(name, runs) for name in saved_names(runs)]
    about = "saved data, with the tasks "
    return [{"name": stream.name, "about": about + ", ".join(stream.names()), "orders": {}} for stream in streams]


def listed(run: Run) -> dict[str, Any]:
    """The row of a run in `lab list runs`; that of a run that cannot be read holds the reason."""
    from lab.views import judged, run_row

    row = run_row(run)
    if row["status"] == "damaged":
        return {"name": run.id, "status": "damaged", "error": row["reason"]}
    names = ("status", "recipe", "stream", "scenario", "seed", *(measure.path for measure in judged()))
    return {"name": run.id} | {name: row[name] for name in names}
