"""`lab validate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.options import Json, LabelColumn, PairColumn, Section, TargetsColumn, TaskColumn, TextColumn, command
from lab.cli.output import print_table, show_json
from lab.core.errors import LabError

if TYPE_CHECKING:
    from lab.data.sources import Columns


@command(Section.KEEP)
def validate(
    file: Annotated[
        str, typer.Argument(help="a recipe file, the config.yaml of a run, a folder of tasks, a file of a table, hf:OWNER/NAME")
    ],
    task_column: TaskColumn = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    targets_column: TargetsColumn = None,
    as_json: Json = False,
) -> None:
    """Check a recipe file, or data as it would be read, without running it: lab validate my-recipe.yaml"""
    from lab.config.resolve import configure
    from lab.data.sources import Columns, is_source

    if Path(file).is_dir() or is_source(file):
        validate_data(file, Columns(text_column, pair_column, label_column, targets_column, task_column), as_json)
        return
    if not file.endswith((".yaml", ".yml")):
        raise LabError(f"'{file}' is neither a YAML file nor data: validate takes a recipe, a folder of tasks, or a table")

    config = configure(file).to_dict()
    show_json(config) if as_json else print(f"{file} is valid: recipe {config['recipe']}, stream {config['stream']['name']}")


def validate_data(data: str, columns: "Columns", as_json: bool) -> None:
    """The tasks in a folder, a file or a data set of the hub, and what is done to their rows while they are read."""
    from lab.data.sources import read_tasks

    tasks = read_tasks(data, columns)
    if as_json:
        show_json([task.summary() | {"label_names": task.labels, "notes": task.notes} for task in tasks])
        return
    print_table([task.summary() for task in tasks])
    for task in tasks:
        for note in task.notes:
            print(f"task '{task.name}': {note}")
