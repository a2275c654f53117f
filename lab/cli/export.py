"""`lab export`."""

from pathlib import Path
from typing import Annotated

import typer

from lab.cli import completion
from lab.cli.options import Json, Runs, Section, command
from lab.cli.output import show_json
from lab.core.errors import LabError


@command(Section.USE)
def export(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="id or folder of a run, or a saved model", autocompletion=completion.runs),
    ],
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    expert: Annotated[str | None, typer.Option(help="only this expert with its classifier, for peft")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="a plain model of transformers with the experts merged in")] = False,
    task: Annotated[str | None, typer.Option(help="of --merge: the task, for models that are told it")] = None,
    after: Annotated[int | None, typer.Option(help="the model as it was after this task, counted from 0")] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The model of a run in a folder of its own: lab export RUN FOLDER"""
    if task and not (merge and not expert):
        raise LabError("--task says for which task the experts are merged: use it with --merge, without --expert")
    from lab.inference.loading import load

    model = load(run, after, "cpu", runs)
    if merge:
        model.save_merged(folder, task, expert)
        use = f'transformers.AutoModel.from_pretrained("{folder}")'
    elif expert is not None:
        model.expert(expert).save_pretrained(folder)
        use = f"see {folder / 'README.md'}"
    else:
        model.save_pretrained(folder)
        use = f'lab.load("{folder}")'
    show_json({"run": run, "dir": str(folder), "expert": expert}) if as_json else print(f"saved in {folder}: {use}")
