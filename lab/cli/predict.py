"""`lab predict`."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lab.cli import completion
from lab.cli.options import Json, Runs, Section, command
from lab.cli.output import counted, print_table, show_json
from lab.core.errors import LabError

if TYPE_CHECKING:
    import pandas

OUT = (".csv", ".jsonl", ".parquet")
SHOWN = 60  # characters of a text in the table


@command(Section.USE)
def predict(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN", help="id or folder of a run, or a saved model", autocompletion=completion.runs),
    ],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="texts to answer")] = None,
    file: Annotated[Path | None, typer.Option(help="texts of a file: csv, tsv, jsonl, json, xlsx, parquet, txt")] = None,
    out: Annotated[Path | None, typer.Option(help=f"write the answers into a file: {', '.join(OUT)}")] = None,
    text_column: Annotated[str, typer.Option(help="of a file: the column of the texts")] = "text",
    pair_column: Annotated[str | None, typer.Option(help="of a file: the column of second texts")] = None,
    task: Annotated[str | None, typer.Option(help="the task of all texts, for models that are told it")] = None,
    task_column: Annotated[str | None, typer.Option(help="of a file: the column of the tasks, for models that are told")] = None,
    after: Annotated[int | None, typer.Option(help="the model as it was after this task, counted from 0")] = None,
    expert: Annotated[str | None, typer.Option(help="let this expert alone act, by its name")] = None,
    top: Annotated[int | None, typer.Option(help="keep the so many largest weights")] = None,
    temperature: Annotated[float, typer.Option(help="below 1 the largest weights grow, above 1 they become more equal")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="texts of a batch")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: where the run was, if it is here)")] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Answer texts with the model of a run: lab predict RUN "a text"; lab predict RUN --file texts.jsonl --out answers.parquet"""
    if bool(texts) == (file is not None):
        raise LabError('give texts, lab predict RUN "a text", or a file of them, lab predict RUN --file texts.jsonl')
    if out is not None and out.suffix not in OUT:
        raise LabError(f"--out {out}: unknown file type; use {', '.join(OUT)}")
    if out is not None and not out.absolute().parent.is_dir():
        raise LabError(f"--out {out}: there is no folder {out.parent}")
    if task_column and (task or file is None):
        raise LabError("--task-column names a column of --file, and takes the place of --task")
    from lab.inference.loading import load
    from lab.inference.text_files import read_texts

    asked, tasks = (texts or [], None) if file is None else read_texts(file, text_column, pair_column, task_column)
    loaded = load(model, after, device, runs)
    change = {"expert": expert, "top": top, "temperature": temperature}
    with counted("answering") as watch:
        answers = loaded(asked, batch_size, tasks or task, lambda done, total: watch("texts", done, total), **change)
    if out is not None:
        write_answers(answers, out)
        print(f"{len(answers):,} answers are in {out}", file=sys.stderr if as_json else sys.stdout)
    elif as_json:
        show_json(_plain(answers))
    else:
        print_table([row | {"text": _short(row["text"])} for row in _plain(answers)])


def write_answers(answers: "pandas.DataFrame", path: Path) -> None:
    """Answers as .csv, .jsonl or .parquet; the file is there whole or not at all. Raises OSError where it cannot be written."""
    from lab.core import atomic_io
    from lab.views.csv_text import to_csv

    if path.suffix == ".csv":
        content = to_csv(answers, index=False).encode()
    elif path.suffix == ".jsonl":
        content = (answers.to_json(orient="records", lines=True, force_ascii=False, double_precision=15) or "").encode()
    else:
        buffer = io.BytesIO()
        answers.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    atomic_io.replace_bytes(path, content)


def _plain(answers: "pandas.DataFrame") -> list[dict[str, Any]]:
    """The rows of a table with None for what is missing."""
    return answers.astype(object).where(answers.notna(), None).to_dict("records")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 4]} ..."
