"""The command line. Results on stdout, progress on stderr; exit codes 0 done, 1 the run failed, 2 the request was wrong."""

import builtins
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab import runs as run_folder
from lab.errors import LabError, RunFailed, unknown

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Train language-model adapters on a stream of tasks, route them, and see what was forgotten.")  # fmt: skip

List = builtins.list
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]
Runs = Annotated[Path | None, typer.Option("--runs", help="folder of runs (default: $LAB_RUNS, else runs/)")]
METRICS = ("average_accuracy", "forgetting", "backward_transfer", "learning_accuracy")
LISTS = ("recipes", "streams", "routers", "methods", "experts", "backbones", "runs")


def command(function: Callable, of: typer.Typer = app) -> Callable:
    """A command whose LabErrors become one line on stderr and exit code 2."""

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except LabError as error:
            print(f"lab: {error}", file=sys.stderr)
            raise typer.Exit(2) from None

    return of.command(name=function.__name__.strip("_").removeprefix("compose_"))(guarded)


def show_json(content: Any) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def training(work: Callable[[], run_folder.Run], as_json: bool) -> None:
    """Run `work`, print its run, and turn the ways it can end into exit codes."""
    from lab.record import Stopped

    try:
        finished = work()
    except LabError:
        raise
    except (Stopped, KeyboardInterrupt) as stop:
        print(f"lab: {str(stop) or 'interrupted; lab list runs shows what can be resumed'}", file=sys.stderr)
        raise typer.Exit(1) from None
    except Exception as error:
        kind = "" if isinstance(error, RunFailed) else f"{type(error).__name__}: "
        print(f"lab: the run failed: {kind}{str(error).strip().splitlines()[0] if str(error).strip() else ''}", file=sys.stderr)
        raise typer.Exit(1) from error
    show_json(finished.result()) if as_json else print_result(finished)


@command
def run(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe (lab list recipes) or a YAML file")],
    option: Annotated[
        list[str] | None, typer.Option("-o", help="any option, for example -o train.lr=0.001 -o stream.tasks=[agnews,dbpedia]")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="shipped stream, hub benchmark, or folder of task folders")] = None,
    backbone: Annotated[str | None, typer.Option(help="minilm, tiny, strings, a hub id, or a folder")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of every use of chance")] = None,
    runs: Runs = None,
    id: Annotated[str | None, typer.Option(help="name of the run's folder (default: time, recipe, stream, seed)")] = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate a recipe on a stream: lab run l2r --stream builtin"""
    from lab import api

    settings = {"stream": stream, "backbone": backbone, "seed": seed}
    given = {name: value for name, value in settings.items() if value is not None}
    training(lambda: api.run(recipe, option or [], runs=runs, id=id, **given), as_json)


@command
def resume(run: Annotated[str, typer.Argument(help="id of the run")], runs: Runs = None, as_json: Json = False) -> None:
    """Go on with a stopped, interrupted or killed run; start a queued one: lab resume RUN"""
    from lab import api

    if run_folder.Run.open(run, runs).status == "finished":
        print(f"run '{run}' is finished: nothing to do", file=sys.stderr)
    training(lambda: api.resume(run, runs), as_json)


@command
def stop(
    run: Annotated[str, typer.Argument(help="id of the run")],
    now: Annotated[bool, typer.Option("--now", help="at the next step instead of after the current task")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Ask a running run to stop; it can be resumed: lab stop RUN"""
    from lab import jobs

    found = run_folder.Run.open(run, runs)
    if found.status not in ("queued", "running"):
        raise LabError(f"run '{run}' is {found.status}: there is nothing to stop")
    if found.status == "queued":
        jobs.stop(found, now)  # it has no process that could end itself
    elif now:
        os.kill(found.info["pid"], signal.SIGTERM)
    else:
        found.request_stop()
    answer = {"run": run, "stop": "now" if now else "after the current task"}
    show_json(answer) if as_json else print(f"run '{run}' will stop {answer['stop']}")


@command
def show(
    run: Annotated[str, typer.Argument(help="id of the run")],
    decompose: Annotated[
        bool, typer.Option("--decompose", help="where the losses of old tasks went; measured at the first time, then kept")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """One run with its metrics and matrix: lab show RUN"""
    found = run_folder.Run.open(run, runs)
    went = {"decomposition": decomposed(found)} if decompose else {}
    if as_json:
        show_json(found.result() | went)
        return
    print_result(found)
    if went:
        print_decomposition(went["decomposition"])


def decomposed(found: run_folder.Run) -> dict[str, Any]:
    """The decomposition of a run, with a line on stderr for each task that is evaluated again."""
    from lab.analysis import decompose

    return decompose(found, lambda task: print(f"looking back at task {task}", file=sys.stderr))


@command
def compare(
    ids: Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="ids of runs")] = None,
    report: Annotated[Path | None, typer.Option(help="write everything into one HTML file that opens offline")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="print the unrounded numbers, with the reason of each missing one")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="print the table for a paper")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print the table for a README")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Runs side by side with their costs: lab compare RUN RUN --report comparison.html"""
    forms = {"csv": csv, "latex": latex, "markdown": markdown, "json": as_json}
    chosen = [name for name, wanted in forms.items() if wanted]
    if len(chosen) > 1:
        raise LabError(f"--{chosen[0]} and --{chosen[1]} exclude each other: one table is printed")
    if report is not None:
        from lab import report as reports

        reports.check(report)
    found, excluded = comparable(ids or [], runs)
    of = {name: [run for run in found if run.protocol == name] for name in ("stream", "transfer")}
    say_different(of["stream"])
    if report is not None:
        if not of["stream"]:
            raise LabError("a report is about runs on a stream, transfer runs have a table: leave --report away")
        excluded |= {run.id: f"run '{run.id}' is of protocol transfer, which has a table of its own" for run in of["transfer"]}
        reports.write(of["stream"], report, excluded)
        print(f"the report is in {report}", file=sys.stderr)
    if as_json:
        show_json([run.result() for run in found])
    elif chosen:
        from lab import tables

        print("\n".join(tables.FORMATS[chosen[0]](part) for part in of.values() if part), end="")
    elif report is None:
        for part in filter(None, of.values()):
            print_comparison(part)


def comparable(ids: List[str], runs: Path | None) -> tuple[List[run_folder.Run], dict[str, str]]:
    """The runs that can be compared, and the reasons of those left out, which are said on stderr; LabError if none is left."""
    from lab.views import problem, unready

    if not ids:
        raise LabError("name at least one run to compare: lab compare RUN RUN; lab list runs shows them")
    found, excluded = [], {}
    for id in dict.fromkeys(ids):
        try:
            run = run_folder.Run.open(id, runs)
            reason = problem(run) or unready(run)
        except LabError as error:
            if not (run_folder.root(runs) / id / "run.json").is_file():
                raise
            reason = str(error)
        if reason:
            excluded[id] = reason
        else:
            found.append(run)
    if not found:
        raise LabError(f"there is nothing to compare: {'; '.join(excluded.values())}")
    for reason in excluded.values():
        print(f"left out: {reason}", file=sys.stderr)
    return found, excluded


@command
def replay(
    what: Annotated[str, typer.Argument(metavar="RUN|FILE", help="a run, or a replay file (.jsonl)")],
    save: Annotated[Path | None, typer.Option(help="write the replay file of the run there instead of playing it")] = None,
    speed: Annotated[float, typer.Option(help="how many times as fast as it was recorded")] = 10.0,
    runs: Runs = None,
) -> None:
    """Play a finished run again as if it were live, or save it as one small file for a machine without torch"""
    from lab import files, jobs
    from lab import replay as replays

    if what.endswith(".jsonl"):
        if not Path(what).is_file():
            raise LabError(f"there is no replay file {what}")
        content = Path(what).read_bytes()
    else:
        found = run_folder.Run.open(what, runs)
        again = (found.dir / replays.FILE).is_file()
        content = (found.dir / replays.FILE).read_bytes() if again else replays.trace(found)
    if save is None:
        played = jobs.play(content, speed, runs)
        print(f"{played.id} plays; watch it with: lab app --runs {played.dir.parent}", file=sys.stderr)
        return
    try:
        replays.read(content)
        files.replace_bytes(save, content)
    except OSError as error:
        raise LabError(f"the replay file {save} cannot be written: {error.strerror}") from error
    print(f"the replay file is {save} ({len(content):,} bytes)", file=sys.stderr)


@command
def grid(
    file: Annotated[str, typer.Argument(help="a grid file, or a shipped grid by its name")],
    processes: Annotated[int, typer.Option(min=1, max=512, help="cells that run at the same time")] = 1,
    look: Annotated[bool, typer.Option("--look", help="run nothing, show what is finished")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Recipes x streams x orders x scenarios x seeds x swept options, compared: lab grid FILE"""
    from lab.console import follow_cells
    from lab.grid import Grid

    made = Grid(file, runs, processes)
    try:
        with closing(made.work()) as steps:
            if not look:
                follow_cells(steps)
    except KeyboardInterrupt:
        print("lab: interrupted; the same command goes on with it", file=sys.stderr)
        raise typer.Exit(1) from None
    show_json(made.result()) if as_json else print_grid(made.result())
    if look:
        print(f"lab: {len(made.unfinished())} of the {len(made.planned())} cells known so far are not finished", file=sys.stderr)
        return
    for id, reason in made.unfinished().items():
        print(f"lab: cell {id} is not finished: {reason}", file=sys.stderr)
    if made.unfinished():
        raise typer.Exit(1)


@command
def validate(
    file: Annotated[str, typer.Argument(help="a recipe file, or the config.yaml of a run")], as_json: Json = False
) -> None:
    """Check a recipe file without running it: lab validate my-recipe.yaml"""
    from lab.config import configure

    if not file.endswith((".yaml", ".yml")):
        raise LabError(f"'{file}' is not a YAML file: validate takes a recipe file")
    config = configure(file).to_dict()
    show_json(config) if as_json else print(f"{file} is valid: recipe {config['recipe']}, stream {config['stream']['name']}")


@command
def list(
    what: Annotated[str, typer.Argument(help=", ".join(LISTS))], runs: Runs = None, as_json: Json = False
) -> None:  # fmt: skip
    """What there is: lab list recipes"""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    rows = listing(what, runs)
    show_json(rows) if as_json else print_table(rows)


def listing(what: str, runs: Path | None) -> List[dict[str, Any]]:
    """Objects with a `name` each, for `lab list`."""
    from lab import registry, taxonomy
    from lab.config import recipes

    if what == "recipes":
        places = {place.pop("recipe"): place for place in taxonomy.table()}
        return [{"name": recipe["name"], **places[recipe["name"]], "about": recipe["about"]} for recipe in recipes()]
    if what == "backbones":
        return [{"name": "minilm", "about": "all-MiniLM-L6-v2, 22M parameters, shipped with the package; the default"},
                {"name": "tiny", "about": "a random two-layer encoder for tests"},
                {"name": "strings", "about": "a small decoder that knows basic string skills; goes with the stream strings"},
                {"name": "owner/model or folder", "about": "any encoder or decoder, of the hub or a folder"}]  # fmt: skip
    if what == "runs":
        return [run_row(found.id, runs) for found in run_folder.all_runs(runs)]
    kind = getattr(registry, what)
    rows = []
    for name in kind.names():
        plugin = kind.get(name)
        row = {"name": name, "about": plugin.about()}
        if what == "streams":
            row["orders"] = {title: [*tasks] for title, tasks in plugin.orders.items()}
        else:
            fields = plugin.Options.model_fields
            row["options"] = {field: info.description or "" for field, info in fields.items() if field != "name"}
        rows.append(row)
    return rows


def run_row(id: str, runs: Path | None) -> dict[str, Any]:
    """One run in the list of runs; one that cannot be read is listed with the reason."""
    names = ("status", "recipe", "stream", "scenario", "seed", "average_accuracy", "forgetting")
    try:
        result = run_folder.Run.open(id, runs).result()
    except LabError as error:
        return {"name": id, "status": "damaged", "error": str(error)}
    return {"name": id} | {name: result.get(name) for name in names}


@command
def env(as_json: Json = False) -> None:
    """Versions and machine: lab env"""
    import torch

    found = run_folder.environment()
    found["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["bfloat16_cpu"] = torch.cpu._is_avx512_bf16_supported()
    show_json(found) if as_json else print_table([{"what": key, "value": value} for key, value in found.items()])


@command
def app_(
    port: Annotated[int, typer.Option(help="port of the page")] = 8501,
    read_only: Annotated[bool, typer.Option("--read-only", help="nobody can start, stop or delete runs from the page")] = False,
    runs: Runs = None,
) -> None:
    """Open the dashboard: lab app"""
    from lab.pages import launch

    launch(port=port, read_only=read_only, runs=runs)


# -- arithmetic on experts ---------------------------------------------------------------------------------------------

composing = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Arithmetic on saved experts: lab compose add A B --out C"
)
app.add_typer(composing, name="compose")

Saved = Annotated[str, typer.Argument(metavar="EXPERT", help="RUN/EXPERT, or a folder in peft's format")]
Out = Annotated[Path, typer.Option("--out", help="new folder for the result, in peft's format with a card")]


def saved(words: List[str], runs: Path | None) -> dict[str, Any]:
    """Experts by what they were called: folders, RUN/EXPERT, or RUN for all of its experts."""
    from lab import compose

    found = {}
    for word in words:
        folders = {word: Path(word)}
        if not Path(word).is_dir():
            run, _, name = word.partition("/")
            library = run_folder.root(runs) / ".library" if run == "imported" else run_folder.root(runs) / run / "experts"
            every = sorted(path.parent for path in library.glob("*/adapter_config.json")) if not name else [library / name]
            folders = {f"{run}/{folder.name}": folder for folder in every if folder.is_dir()}
        if not folders:
            raise LabError(f"there is no expert '{word}': name a folder, or RUN/EXPERT (lab list runs shows the runs)")
        found |= {name: compose.read(folder, name) for name, folder in folders.items()}
    return found


def composed(made: Any, words: str, parts: dict[str, Any], out: Path, as_json: bool) -> None:
    """Write the result of `lab compose <words>` and say where it is."""
    from lab import compose

    compose.write(made, out, f"lab compose {words}", [*parts.values()])
    answer = {
        "expert": str(out),
        "kind": made.kind,
        "rank": made.config.get("r"),
        "made_by": f"lab compose {words}",
        "of": [*parts],
    }
    show_json(answer) if as_json else print(f"the expert is in {out}")


def numbers(option: str, text: str | None) -> List[float] | None:
    """Numbers between commas."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise LabError(f"{option} = {text}: write numbers with commas between them, for example {option} 0.5,0.5") from None


composing_command = partial(command, of=composing)


@composing_command
def compose_add(
    experts: Annotated[List[str], typer.Argument(metavar="EXPERT...", help="RUN/EXPERT or folders in peft's format")],
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
    from lab import compose

    parts, given = saved(experts, runs), numbers("--weights", weights)
    made = compose.add([*parts.values()], given, how, density)  # type: ignore[arg-type]
    more = (f" --weights {weights}" if weights else "") + f" --how {how}" + (f" --density {density:g}" if how == "ties" else "")
    composed(made, f"add {' '.join(parts)}{more}", parts, out, as_json)


@composing_command
def compose_negate(
    expert: Saved,
    out: Out,
    by: Annotated[float, typer.Option(help="how much is undone")] = 1.0,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The expert that undoes what this one does: lab compose negate A --out B"""
    from lab import compose

    parts = one(expert, runs)
    composed(compose.negate(*parts.values(), by), f"negate {expert} --by {by:g}", parts, out, as_json)


@composing_command
def compose_scaled(
    expert: Saved,
    out: Out,
    by: Annotated[float, typer.Option(help="times its effect; negative values negate")],
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The expert with so many times its effect: lab compose scaled A --by 0.5 --out B"""
    from lab import compose

    parts = one(expert, runs)
    composed(compose.scaled(*parts.values(), by), f"scaled {expert} --by {by:g}", parts, out, as_json)


@composing_command
def compose_analogy(
    task: Saved,
    target: Saved,
    source: Saved,
    out: Out,
    weights: Annotated[str, typer.Option(help="of the task's expert, and of target minus source")] = "1,1",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """An expert carried to another domain, task + (target - source): lab compose analogy TASK TARGET SOURCE --out B"""
    from lab import compose

    parts = [one(word, runs) for word in (task, target, source)]
    given = numbers("--weights", weights)
    if len(given) != 2:
        raise LabError(f"--weights = {weights}: an analogy has two, of the task's expert and of target minus source")
    made = compose.analogy(*(expert for part in parts for expert in part.values()), given)
    together = parts[0] | parts[1] | parts[2]
    composed(made, f"analogy {task} {target} {source} --weights {weights}", together, out, as_json)


@composing_command
def compose_cluster(
    experts: Annotated[List[str], typer.Argument(metavar="EXPERT...", help="RUN for all of its experts, RUN/EXPERT, or folders")],
    clusters: Annotated[int, typer.Option(help="how many")],
    space: Annotated[str, typer.Option(help="update: what the experts do, B A; parameters: A and B, as published")] = "update",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Which experts are alike: lab compose cluster RUN --clusters 3"""
    from lab import compose

    parts = saved(experts, runs)
    compose.same([*parts.values()], rank=True)
    if space not in compose.SPACES:
        raise unknown("space", space, compose.SPACES)
    found = compose.clusters(compose.products([part.tensors for part in parts.values()], space), clusters)
    rows = [{"expert": name, "cluster": number} for name, number in zip(parts, found, strict=True)]
    show_json(rows) if as_json else print_table(rows)


@composing_command
def compose_transfer(
    expert: Saved,
    student: Annotated[str, typer.Option(help="backbone the expert is carried to")],
    out: Out,
    teacher: Annotated[str | None, typer.Option(help="backbone it was trained on; default: as it says itself")] = None,
    layers: Annotated[str, typer.Option(help="skip or average, where the student has fewer blocks")] = "skip",
    control: Annotated[
        bool, typer.Option("--control", help="draw values with the same mean and spread instead, to compare with")
    ] = False,
    seed: Annotated[int, typer.Option(help="of the control's values")] = 0,
    stream: Annotated[str, typer.Option(help="whose training texts features are matched on, if the widths differ")] = "builtin",
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """An expert for another backbone: lab compose transfer RUN/EXPERT --student B --out C"""
    from lab import carry, compose
    from lab.backbone import Backbone, resolve
    from lab.config import BackboneConfig
    from lab.sources import load_tasks

    parts = one(expert, runs)
    (part,) = parts.values()
    teacher = teacher or part.config.get("base_model_name_or_path")
    if not teacher:
        raise LabError(f"'{expert}' does not say which backbone it was trained on: name it with --teacher")
    both = [Backbone(resolve(BackboneConfig(name=name, dtype="float32"))) for name in (teacher, student)]
    texts = [example.text for task in load_tasks(stream) for example in task.train] if both[0].width != both[1].width else []
    made = carry.carried(part, *both, texts, layers)  # type: ignore[arg-type]
    made = carry.control(made, seed) if control else made
    made = compose.belonging(made, student)
    more = f" --layers {layers}" + (f" --stream {stream}" if texts else "") + (f" --control --seed {seed}" if control else "")
    composed(made, f"transfer {expert} --teacher {teacher} --student {student}{more}", parts, out, as_json)


def one(word: str, runs: Path | None) -> dict[str, Any]:
    """A single expert by what it was called."""
    found = saved([word], runs)
    if len(found) != 1:
        raise LabError(f"'{word}' is {len(found)} experts: name one of {', '.join(found)}")
    return found


# -- text output -------------------------------------------------------------------------------------------------------


def cell(value: Any) -> str | Text:
    if value is None:
        return "-"
    if isinstance(value, Text):
        return value
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {' > '.join(inner) if isinstance(inner, List) else inner}" for key, inner in value.items())
    return str(value)


def print_table(rows: List[dict[str, Any]]) -> None:
    """Rows as a table on stdout, as wide as the terminal."""
    if not rows:
        print("none")
        return
    table = Table()
    for name in dict.fromkeys(key for row in rows for key in row):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(column.header)) for column in table.columns))
    Console(markup=False, width=None if sys.stdout.isatty() else 160).print(table)


def print_result(found: run_folder.Run) -> None:
    """Metrics, and the matrix with one row per learned task; of a transfer run the scores of all tasks."""
    result = found.result()
    if found.protocol == "transfer":
        print_transfer(result)
        return
    routing = {f"routing: {name}": value for name, value in result["routing"].items() if not isinstance(value, dict)}
    print_table([{name: result[name] for name in ("run", "status", *METRICS)} | routing])
    tasks, zero_shot = result["tasks"], result["zero_shot"] or [None] * len(result["tasks"])
    rows = [("before training", zero_shot), *zip(tasks, result["matrix"], strict=False)]
    print_table([{"after": name} | dict(zip(tasks, row, strict=False)) for name, row in rows])
    for name, reason in result["why"].items():
        print(f"{name}: {reason}")


def print_transfer(result: dict[str, Any]) -> None:
    """Training tasks, held-out tasks without shots and with each number of them, and the reasons of what is missing."""
    names = ("run", "status", "trained_average", "alignment")
    shots = {f"{k} shots": score for k, score in result["average"].items()}
    print_table([{name: result[name] for name in names} | shots])
    print_table([{"trained on": task, "score": score} for task, score in result["trained"].items()])
    held = {task: {"0": score} | result["held_out"].get(task, {}) for task, score in result["zero_shot"].items()}
    print_table([{"held out": task} | {f"{k} shots": score for k, score in scores.items()} for task, scores in held.items()])
    for name, reason in result["why"].items():
        print(f"{name}: {reason}")


def print_comparison(found: List[run_folder.Run]) -> None:
    """Measures down, methods across, since a terminal is higher than wide; then what is missing and why."""
    from lab import views
    from lab.tables import comparison

    table, notes = comparison(found)
    print_table([{"measure": title} | dict(table[title]) for title in table.columns])
    for note in notes:
        print(note)
    for measure in views.tested([run.result() for run in found]):
        pairs = views.differences(found, measure.path)
        if len(pairs) and measure.path != "forgetting":
            print(f"paired differences in {measure.title.lower()}, over the seeds and orders that both have:")
            print_differences(pairs.astype(object).where(pairs.notna(), None).to_dict("records"))


def print_differences(pairs: List[dict[str, Any]]) -> None:
    """Differences with their intervals; what is no claim is grey and says so."""
    rows = []
    for pair in pairs:
        said = {None: f"- ({pair['why']})", True: "yes", False: "no: the interval includes zero"}[pair["claim"]]
        row = {"first": pair["first"], "second": pair["second"], "n": pair["n"], "first - second": between(pair)}
        row |= {"p": pair["p"], "claim": said}
        rows.append({name: value if pair["claim"] else Text(cell(value), "dim") for name, value in row.items()})
    print_table(rows)


def say_different(found: List[run_folder.Run]) -> None:
    """On stderr, what makes runs unequal that are compared."""
    from lab import views

    common = views.common_tasks(found)
    if any(set(run.tasks) != set(common) for run in found):
        shared = f"common to all: {', '.join(common)}" if common else "no task is common to all"
        print(f"these runs learned different tasks, so their averages mean different things; {shared}", file=sys.stderr)


def print_decomposition(went: dict[str, Any]) -> None:
    """What each old task lost, and the terms that make it up."""
    from lab.tables import TERMS

    rows = [*went["tasks"], {"task": "mean"} | went["mean"]]
    print_table([{"task": row["task"], "loss": row["loss"]} | {TERMS[term]: row[term] for term in TERMS} for row in rows])
    for term, reason in went["why"].items():
        print(f"{TERMS[term]}: {reason}")


def print_grid(result: dict[str, Any]) -> None:
    """Methods with means and intervals; the sweep; differences to the best; effects of the order; seconds."""
    several = len({(row["stream"], row["scenario"]) for row in result["table"]}) > 1
    scores, sweeps, places, best = [], [], [], {}
    for row in result["table"]:
        method = {name: row[name] for name in (("recipe", "stream", "scenario") if several else ("recipe",))}
        known = ("average_accuracy", "forgetting", "learning_accuracy", "trained_average", "alignment")
        means = {name: between(row[name]) for name in row if name in known or name.startswith("average.")}
        used = {"task id": row["uses.task_id"], "stored examples": row["uses.stored_examples"], "bytes": row["cost.stored_bytes"]}
        used = {name: value if isinstance(value, bool) else value["mean"] for name, value in used.items()}
        scores.append(method | {"n": row["n"]} | means | {"chosen": settings(row["chosen"]) or None} | used)
        tried = {settings(entry["values"]): entry["why"] or entry["validation"] for entry in row["sweep"]}
        sweeps.append(method | tried)
        places.append(method | {str(place + 1): between(found) for place, found in enumerate(row["by_position"])})
        score = [found for name, found in row.items() if name == "average_accuracy" or name.startswith("average.")][-1]
        accuracy, leader = score["mean"], best.get((row["stream"], row["scenario"]), ("", -1.0))
        if accuracy is not None and accuracy > leader[1] and (row["uses.task_id"] is not True or "alignment" in row):
            best[row["stream"], row["scenario"]] = row["recipe"], accuracy
    print_table(scores)
    if len(result["table"][0]["sweep"]) > 1:
        print("average accuracy on validation examples, by which the values were chosen:")
        print_table(sweeps)
    for measure in dict.fromkeys(pair["measure"] for pair in result["differences"]):
        pairs = [pair for pair in result["differences"] if pair["measure"] == measure
                 and best.get((pair["stream"], pair["scenario"]), ("",))[0] in (pair["first"], pair["second"])]  # fmt: skip
        if pairs:
            print(f"paired differences in {measure.replace('_', ' ')} to the most accurate method that is not given the task:")
            print_differences(pairs)
    if any(found["mean"] is not None for row in result["table"] for found in row["by_position"]):
        print("last score of the task at each position of the stream, minus the task's mean over all positions:")
        print_table(places)
    print("seconds and bytes of a cell, as if nothing had been reused:")
    print_table(result["times"]["rows"])
    for name, of in (("reuse", "all cells"), ("reuse_where_taken", "cells that took experts from the store")):
        found = result["times"][name]
        if found["factor"]:
            spent = f"{found['with_reuse_s']:.0f} s in place of {found['without_reuse_s']:.0f} s"
            print(f"{found['cells']} {of}: {spent}, reuse saved {found['share_saved']:.0%} ({found['factor']:.1f} times as fast)")


def settings(values: dict[str, Any] | None) -> str:
    """Options and their values on one line."""
    return ", ".join(f"{name}={value}" for name, value in (values or {}).items())


def between(found: dict[str, Any]) -> str:
    """A mean with its interval, or the reason why there is none."""
    if found["mean"] is None:
        return f"- ({found['why']})"
    return f"{found['mean']:.3f}" + ("" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]")
