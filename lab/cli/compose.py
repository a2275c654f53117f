"""`lab compose ...`: arithmetic on saved experts."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli import options
from lab.cli.options import Json, Runs
from lab.cli.output import print_table, show_json
from lab.core.errors import LabError, unknown

composing = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Arithmetic on saved experts: lab compose add A B --out C"
)

Saved = Annotated[str, typer.Argument(metavar="EXPERT", help="RUN/EXPERT, or a folder in peft's format")]
Out = Annotated[Path, typer.Option("--out", help="new folder for the result, in peft's format with a card")]


def saved(words: list[str], runs: Path | None) -> dict[str, Any]:
    """Experts by what they were called: folders, RUN/EXPERT, or RUN for all of its experts."""
    from lab.adapters import arithmetic, peft_folder

    return {name: arithmetic.read(folder, name) for word in words for name, folder in peft_folder.named(word, runs).items()}


def composed(made: Any, words: str, parts: dict[str, Any], out: Path, as_json: bool, **more: str) -> None:
    """Write the result of `lab compose <words>` and say where it is, and what else is to be said of it."""
    from lab.adapters import arithmetic

    arithmetic.write(made, out, f"lab compose {words}", [*parts.values()])
    answer = {
        "expert": str(out),
        "kind": made.kind,
        "rank": made.config.get("r"),
        "made_by": f"lab compose {words}",
        "of": [*parts],
        **more,
    }
    show_json(answer) if as_json else print(
        *(f"{name}: {text}" for name, text in more.items()), f"the expert is in {out}", sep="\n"
    )


def numbers(option: str, text: str | None) -> list[float] | None:
    """Numbers between commas."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise LabError(f"{option} = {text}: write numbers with commas between them, for example {option} 0.5,0.5") from None


command = partial(options.command, of=composing)


@command
def add(
    experts: Annotated[list[str], typer.Argument(metavar="EXPERT...", help="RUN/EXPERT or folders in peft's format")],
    out: Out,
    weights: Annotated[str | None, typer.Option(help="numbers with commas between them; default: equal parts")] = None,
    how: Annotated[
        str, typer.Option(help="parameters (means of all parameters), or a merge: linear, cat, svd, ties")
    ] = "parameters",
    density: Annotated[float, typer.Option(help="for ties: share of values that are kept")] = 0.2,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Several experts as one: lab compose add A B --weights 0.7,0.3 --out C"""
    from lab.adapters import arithmetic

    parts, given = saved(experts, runs), numbers("--weights", weights)
    made = arithmetic.add([*parts.values()], given, how, density)  # type: ignore[arg-type]
    more = (f" --weights {weights}" if weights else "") + f" --how {how}" + (f" --density {density:g}" if how == "ties" else "")
    composed(made, f"add {' '.join(parts)}{more}", parts, out, as_json)


@command
def negate(
    expert: Saved,
    out: Out,
    by: Annotated[float, typer.Option(help="how much is undone")] = 1.0,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The expert that undoes what this one does: lab compose negate A --out B"""
    of_one("negate", expert, by, out, runs, as_json)


@command
def scaled(
    expert: Saved,
    out: Out,
    by: Annotated[float, typer.Option(help="times its effect; negative values negate")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The expert with so many times its effect: lab compose scaled A --by 0.5 --out B"""
    of_one("scaled", expert, by, out, runs, as_json)


def of_one(operation: str, expert: str, by: float, out: Path, runs: Path | None, as_json: bool) -> None:
    """`lab.adapters.arithmetic.<operation>` of a single expert."""
    from lab.adapters import arithmetic

    parts = one(expert, runs)
    made = getattr(arithmetic, operation)(*parts.values(), by)
    composed(made, f"{operation} {expert} --by {by:g}", parts, out, as_json)


@command
def analogy(
    task: Saved,
    target: Saved,
    source: Saved,
    out: Out,
    weights: Annotated[str, typer.Option(help="of the task's expert, and of target minus source")] = "1,1",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """An expert carried to another domain, task + (target - source): lab compose analogy TASK TARGET SOURCE --out B"""
    from lab.adapters import arithmetic

    parts = [one(word, runs) for word in (task, target, source)]
    given = numbers("--weights", weights)
    if len(given) != 2:
        raise LabError(f"--weights = {weights}: an analogy has two, of the task's expert and of target minus source")
    made = arithmetic.analogy(*(expert for part in parts for expert in part.values()), given)
    together = parts[0] | parts[1] | parts[2]
    composed(made, f"analogy {task} {target} {source} --weights {weights}", together, out, as_json)


@command
def cluster(
    experts: Annotated[list[str], typer.Argument(metavar="EXPERT...", help="RUN for all of its experts, RUN/EXPERT, or folders")],
    clusters: Annotated[int, typer.Option(help="how many")],
    space: Annotated[str, typer.Option(help="update: what the experts do, B A; parameters: A and B, as published")] = "update",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Which experts are alike: lab compose cluster RUN --clusters 3"""
    from lab.adapters import arithmetic

    parts = saved(experts, runs)
    arithmetic.same([*parts.values()], rank=True)
    if space not in arithmetic.SPACES:
        raise unknown("space", space, arithmetic.SPACES)
    found = arithmetic.clusters(arithmetic.products([part.tensors for part in parts.values()], space), clusters)
    rows = [{"expert": name, "cluster": number} for name, number in zip(parts, found, strict=True)]
    show_json(rows) if as_json else print_table(rows)


@command
def transfer(
    expert: Saved,
    student: Annotated[str, typer.Option(help="backbone the expert is carried to")],
    out: Out,
    teacher: Annotated[str | None, typer.Option(help="backbone it was trained on; default: as it says itself")] = None,
    layers: Annotated[str, typer.Option(help="skip or average, where the student has fewer blocks")] = "skip",
    control: Annotated[
        bool, typer.Option("--control", help="draw values with the same mean and spread instead, to compare with")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the control's values")] = 0,
    stream: Annotated[
        str, typer.Option(help="whose training texts features are matched on, if the backbones do not share them")
    ] = "builtin",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """An expert for another backbone: lab compose transfer RUN/EXPERT --student B --out C"""
    from lab.adapters import arithmetic
    from lab.analysis import cross_backbone
    from lab.config.schema import BackboneConfig
    from lab.data.loading import load_tasks
    from lab.models.backbone import Backbone
    from lab.models.pretrained import resolve

    parts = one(expert, runs)
    (part,) = parts.values()
    teacher = teacher or part.config.get("base_model_name_or_path")
    if not teacher:
        raise LabError(f"'{expert}' does not say which backbone it was trained on: name it with --teacher")
    both = [Backbone(resolve(BackboneConfig(name=name, dtype="float32"))) for name in (teacher, student)]
    alike = cross_backbone.alike(*both)
    texts = [] if alike else [example.text for task in load_tasks(stream) for example in task.train]
    made = cross_backbone.carried(part, *both, texts, layers)  # type: ignore[arg-type]
    made = cross_backbone.control(made, seed) if control else made
    made = arithmetic.belonging(made, student)
    more = f" --layers {layers}" + (f" --stream {stream}" if texts else "") + (f" --control --seed {seed}" if control else "")
    features = (
        "one to one, the backbones share them" if alike else f"matched on the texts of {stream}, the backbones do not share them"
    )
    composed(made, f"transfer {expert} --teacher {teacher} --student {student}{more}", parts, out, as_json, features=features)


def one(word: str, runs: Path | None) -> dict[str, Any]:
    """A single expert by what it was called."""
    found = saved([word], runs)
    if len(found) != 1:
        raise LabError(f"'{word}' is {len(found)} experts: name one of {', '.join(found)}")
    return found
