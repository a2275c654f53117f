"""`lab compose ...`: arithmetic on saved experts."""

import warnings
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lab.cli import options
from lab.cli.options import Json, Runs
from lab.cli.output import print_table, show_json
from lab.core.errors import LabError, Notice, unknown

composing = options.family("compose", options.Section.USE, "Arithmetic on saved experts: lab compose add A B --out C")
command = options.command(of=composing)

Saved = Annotated[str, typer.Argument(metavar="EXPERT", help="RUN/EXPERT, a folder in peft's format, or a hub id")]
Out = Annotated[Path, typer.Option("--out", help="new folder for the result, in peft's format with a card")]


def saved(words: list[str], runs: Path | None) -> dict[str, Any]:
    """Experts by what they were called: folders, RUN/EXPERT, or RUN for all of its experts."""
    from lab.adapters import arithmetic, peft_folder

    experts = {name: arithmetic.read(folder, name) for word in words for name, folder in peft_folder.named(word, runs).items()}
    for name, expert in experts.items():
        for note in expert.notes:
            warnings.warn(f"{name}: {note}", Notice, stacklevel=2)
    return experts


def write_result(result: Any, words: str, parts: dict[str, Any], out: Path, as_json: bool, **more: str) -> None:
    """Write the expert that `lab compose <words>` made of `parts`; print where it is, and `more` facts about it."""
    from lab.adapters import arithmetic

    arithmetic.write(result, out, f"lab compose {words}", [*parts.values()])
    answer = {
        "expert": str(out),
        "kind": result.kind,
        "rank": result.config.get("r"),
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


@command
def add(
    experts: Annotated[list[str], typer.Argument(metavar="EXPERT...", help="RUN/EXPERT, folders in peft's format, or hub ids")],
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

    parts, factors = saved(experts, runs), numbers("--weights", weights)
    result = arithmetic.add([*parts.values()], factors, cast(Any, how), density)  # refuses other words itself
    more = (f" --weights {weights}" if weights else "") + f" --how {how}" + (f" --density {density:g}" if how == "ties" else "")
    write_result(result, f"add {' '.join(parts)}{more}", parts, out, as_json)


@command
def negate(
    expert: Saved,
    out: Out,
    by: Annotated[float, typer.Option(help="how much is undone")] = 1.0,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The expert that undoes what this one does: lab compose negate A --out B"""
    apply("negate", expert, by, out, runs, as_json)


@command
def scaled(
    expert: Saved,
    out: Out,
    by: Annotated[float, typer.Option(help="times its effect; negative values negate")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The expert with so many times its effect: lab compose scaled A --by 0.5 --out B"""
    apply("scaled", expert, by, out, runs, as_json)


def apply(operation: str, expert: str, by: float, out: Path, runs: Path | None, as_json: bool) -> None:
    """Write what `lab.adapters.arithmetic.<operation>` makes of a single expert."""
    from lab.adapters import arithmetic

    parts = single(expert, runs)
    result = getattr(arithmetic, operation)(*parts.values(), by)
    write_result(result, f"{operation} {expert} --by {by:g}", parts, out, as_json)


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

    parts = [single(word, runs) for word in (task, target, source)]
    factors = numbers("--weights", weights) or []
    if len(factors) != 2:
        raise LabError(f"--weights = {weights}: an analogy has two, of the task's expert and of target minus source")
    first, plus, minus = (expert for part in parts for expert in part.values())
    result = arithmetic.analogy(first, plus, minus, factors)
    together = parts[0] | parts[1] | parts[2]
    write_result(result, f"analogy {task} {target} {source} --weights {weights}", together, out, as_json)


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
    alike = arithmetic.same([*parts.values()], rank=True)
    if space not in arithmetic.SPACES:
        raise unknown("space", space, arithmetic.SPACES)
    similarities = arithmetic.products([part.tensors for part in alike], cast(arithmetic.Space, space))
    cluster_of = arithmetic.clusters(similarities, clusters)
    rows = [{"expert": name, "cluster": number} for name, number in zip(parts, cluster_of, strict=True)]
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
    from lab.adapters.base_model import Base, compare
    from lab.analysis import cross_backbone
    from lab.config.schema import BackboneConfig
    from lab.data.loading import load_tasks
    from lab.models.backbone import Backbone
    from lab.models.pretrained import resolve

    parts = single(expert, runs)
    (part,) = parts.values()
    teacher = teacher or part.base.name
    if not teacher:
        raise LabError(f"'{expert}' does not say which backbone it was trained on: name it with --teacher")
    before, after = (
        Backbone(resolve(BackboneConfig.model_validate({"name": name, "dtype": "float32"}))) for name in (teacher, student)
    )
    note = compare(Base(teacher, part.backbone), before.base)
    if note:
        warnings.warn(f"{expert}: {note}", Notice, stacklevel=2)
    alike = cross_backbone.alike(before, after)
    texts = [] if alike else [example.text for task in load_tasks(stream, runs=runs) for example in task.train]
    result = cross_backbone.carried(part, before, after, texts, cast(Any, layers))  # refuses other words itself
    result = cross_backbone.control(result, seed) if control else result
    result = arithmetic.belonging(result, after.base)
    more = f" --layers {layers}" + (f" --stream {stream}" if texts else "") + (f" --control --seed {seed}" if control else "")
    features = (
        "one to one, the backbones share them" if alike else f"matched on the texts of {stream}, the backbones do not share them"
    )
    write_result(
        result, f"transfer {expert} --teacher {teacher} --student {student}{more}", parts, out, as_json, features=features
    )


def single(word: str, runs: Path | None) -> dict[str, Any]:
    """A single expert by its name: a folder, RUN/EXPERT, or RUN where the run has one expert."""
    experts = saved([word], runs)
    if len(experts) != 1:
        raise LabError(f"'{word}' is {len(experts)} experts: name one of {', '.join(experts)}")
    return experts
