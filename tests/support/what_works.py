"""Makes the table of what works, `docs/what-works.md`, by running every cell: an architecture, and what is done with it.

    PYTHONPATH=.:tests python -m support.what_works

A cell is a run of two tasks with a few examples each, on the tiny random checkpoint of the architecture in
`tests/support/architectures.py`; nothing but the sizes of the run differs from the recipe.
"""

import os
import re
import shutil
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import lab
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training import runner
from lab.training.recorder import record
from support import architectures

PAGE = Path(__file__).parents[2] / "docs" / "what-works.md"
COLUMNS = {  # recipe and options
    "lora": ("l2r",),
    "ia3": ("l2r", "experts.name=ia3"),
    "bottleneck": ("l2r", "experts.name=bottleneck"),
    "prompt": ("progprompt",),
    "merge": ("l2r-merge",),
    "words": ("l2r", "answer=words"),
    "free text": ("l2r",),
    "resume": ("l2r",),
}
SIZES = (
    *("stream.max_train=6", "stream.max_validation=3", "stream.max_test=3", "train.epochs=1", "checkpoint.every=1"),
    *("backbone.device=cpu", "backbone.dtype=float32", "backbone.threads=1", "backbone.max_length=64"),
)
ROUTED = ("memory.per_task=3", "router_training.steps=3")
LABELLED = ("stream.name=builtin", "stream.tasks=[product_review, support_urgency]")
WRITTEN = ("stream.name=strings", "stream.tasks=[duplicate, swap]", "decoding.max_tokens=6")
WORKS = "works"
BYTES = ("matrix.json", "router.safetensors", "experts/**/*.safetensors", "predictions/*")


class Cell(NamedTuple):
    """What became of the runs of one cell."""

    result: str  # works, refused or fails
    reason: str = ""


def cell(name: str, column: str, folder: Path) -> Cell:
    """Run one cell in `folder`, which holds the checkpoint of the architecture, or will; encoder-decoders answer by writing."""
    backbone = folder / "backbone"
    if not backbone.exists():
        architectures.save(name, backbone)
    kind = architectures.family(architectures.config(name))
    writes = column == "free text" or (column != "words" and kind == "encoder-decoder")
    recipe, *own = COLUMNS[column]
    options = [*own, *SIZES, *(WRITTEN if writes else LABELLED), *(ROUTED if recipe.startswith("l2r") else ())]
    runs, ready = folder / column, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = lab.run(recipe, options, backbone=str(backbone), runs=runs, id="whole", progress=False)
            ready = True
            if column == "resume":
                _stopped_and_repeated(run, recipe, options, str(backbone))
    except Exception as error:
        refused = isinstance(error, lab.LabError) and not ready
        reason = str(error) if isinstance(error, lab.LabError) else f"{type(error).__name__}: {error}".split("\n")[0]
        return Cell("refused" if refused else "fails", reason.replace(str(backbone), "BACKBONE"))
    finally:
        shutil.rmtree(runs, ignore_errors=True)
    return Cell(WORKS)


def _stopped_and_repeated(whole: Run, recipe: str, options: list[str], backbone: str) -> None:
    """A run that ends within its second task goes on to the same bytes, and a later one finds the experts of the first."""
    alone = lab.configure(recipe, [*options, "reuse=false"], backbone=backbone)
    session = runner.session(alone, whole.dir.parent)
    run = create_run(session.config.to_dict(), whole.dir.parent, "resumed")
    events = record(run, session)
    for event in events:
        if type(event).__name__ == "Step" and event.task == 1:
            break
    events.close()
    lab.resume("resumed", whole.dir.parent, progress=False)
    assert _content(run) == _content(whole), "the resumed run has other bytes"
    later = lab.run(recipe, options, backbone=backbone, runs=whole.dir.parent, id="later", progress=False)
    assert _content(later) == _content(whole), "the repeated run has other bytes"
    begun = [event for event in later.events() if event["kind"] == "TaskStarted"]
    assert begun and all(event["reused"] for event in begun), "experts are trained that an earlier run has trained"


def _content(run: Run) -> dict[str, bytes]:
    paths = [path for pattern in BYTES for path in run.dir.glob(pattern) if path.is_file()]
    return {str(path.relative_to(run.dir)): path.read_bytes() for path in paths}


def row(name: str) -> dict[str, Cell]:
    """All cells of an architecture."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        return {column: cell(name, column, Path(folder)) for column in COLUMNS}


def page(rows: dict[str, dict[str, Cell]]) -> str:
    """The table as Markdown; reasons stand below it, each once."""
    reasons: list[str] = []
    lines: dict[str, list[str]] = {"encoder": [], "decoder": [], "encoder-decoder": []}
    for name, cells in rows.items():
        shown = []
        for result, reason in cells.values():
            if reason and reason not in reasons:
                reasons.append(reason)
            shown.append(f"{result} [{reasons.index(reason) + 1}]" if reason else result)
        lines[architectures.family(architectures.config(name))].append(f"| {name} | {' | '.join(shown)} |")
    head = f"| backbone | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}\n"
    tables = "\n".join(f"## {kind.capitalize()}s\n\n{head}" + "\n".join(lines[kind]) + "\n" for kind in lines if lines[kind])
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    versions = ", ".join(f"{package} {version(package)}" for package in ("transformers", "peft", "torch"))
    return f"""# What works

Made by running each cell, with {versions}:

```
PYTHONPATH=.:tests python -m support.what_works
pytest -n 0 -m architectures        # runs each cell again and compares it with this page
```

A row is a tiny random model of an architecture of transformers (`tests/support/architectures.py`), saved as pretraining
leaves it, without a pooler, and loaded as any checkpoint. A cell is a run of two tasks: recipe `l2r` with its defaults and
experts of the kind `lora`, `ia3` or `bottleneck`; `progprompt`, whose experts are prompts; `l2r-merge`; `l2r` with
`answer=words`; `l2r` on texts to write. `resume`: an `l2r` run that is ended in its second task goes on to the same bytes as
one that is not, and a later run finds the experts of the first. Encoder-decoders have no classifier: all their columns but
`words` are runs that write. A refusal comes before anything is trained; its words are below. That experts compute what they
compute in peft, with the same gradients, is tested in `tests/models/test_layer_calls.py` over the same architectures.

{tables}
## What is said where it is refused

{notes}
"""


def read(text: str) -> dict[str, dict[str, Cell]]:
    """The cells of a page."""
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    rows = {}
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        name, *shown = line.split(" | ")
        parsed = [re.fullmatch(r"(\w+)(?: \[(\d+)\])?", cell) for cell in shown]
        if name != "backbone" and all(parsed):
            rows[name] = {c: Cell(m[1], notes.get(m[2], "")) for c, m in zip(COLUMNS, parsed, strict=True) if m}
    return rows


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(architectures.ARCHITECTURES)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        made = dict(zip(wanted, pool.map(row, wanted), strict=True))
    if sys.argv[1:]:
        print(page(made))
    else:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(made))
