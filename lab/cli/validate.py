"""`lab validate`."""

from pathlib import Path
from typing import Annotated

import typer

from lab.cli.options import Json, Section, command
from lab.cli.output import print_table, show_json
from lab.core.errors import LabError


@command(Section.KEEP)
def validate(
    file: Annotated[str, typer.Argument(help="a recipe file, the config.yaml of a run, or a folder of tasks")],
    as_json: Json = False,
) -> None:
    """Check a recipe file, or a folder of data as it would be read, without running it: lab validate my-recipe.yaml"""
    if Path(file).is_dir():
        validate_data(file, as_json)
        return
    if not file.endswith((".yaml", ".yml")):
        raise LabError(f"'{file}' is neither a YAML file nor a folder: validate takes a recipe file or a folder of tasks")
    from lab.config.resolve import configure

    config = configure(file).to_dict()
    show_json(config) if as_json else print(f"{file} is valid: recipe {config['recipe']}, stream {config['stream']['name']}")


def validate_data(folder: str, as_json: bool) -> None:
    """The tasks in a folder, and what is done to their rows while they are read."""
    from lab.data.folder_stream import FolderStream
    from lab.data.stream import check

    stream = FolderStream(folder)
    tasks = [check(stream.load(name)) for name in stream.names()]
    if as_json:
        show_json([task.summary() | {"label_names": task.labels, "notes": task.notes} for task in tasks])
        return
    print_table([task.summary() for task in tasks])
    for task in tasks:
        for note in task.notes:
            print(f"task '{task.name}': {note}")
