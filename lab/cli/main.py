"""The command line. Results on stdout, progress on stderr; exit codes 0 done, 1 the run failed, 2 the request was wrong."""

import builtins
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli import compose, options
from lab.cli.options import Json, Runs
from lab.cli.output import (
    counted,
    print_comparison,
    print_decomposition,
    print_grid,
    print_pruning,
    print_result,
    print_table,
    say_unequal,
    show_json,
)
from lab.core.errors import LabError, RunFailed, unknown
from lab.run_folder import run as run_folder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train language-model adapters on a stream of tasks, route them, and see what was forgotten.",
)

app.add_typer(compose.composing, name="compose")
command = partial(options.command, of=app)

List = builtins.list
LISTS = ("recipes", "streams", "routers", "methods", "consolidations", "experts", "protocols", "metrics", "backbones", "runs")


def training(work: Callable[[], run_folder.Run], as_json: bool) -> None:
    """Call `work` and print the run it returns; exit code 1 and a line on stderr if the run failed or was stopped."""
    from lab.training.recorder import Stopped

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
    chosen = {name: value for name, value in settings.items() if value is not None}
    training(lambda: api.run(recipe, option or [], runs=runs, id=id, **chosen), as_json)


@command
def resume(
    run: Annotated[str, typer.Argument(help="id of the run or its folder")],
    option: Annotated[
        List[str] | None, typer.Option("-o", help="an option that changes from here on, for example -o train.lr=0.001")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="go on although settings, data, backbone or versions are not as they were")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Go on with a stopped, interrupted or killed run, or start a queued one: lab resume RUN"""
    from lab import api
    from lab.jobs.scheduler import safe_status

    if safe_status(run_folder.Run(run_folder.located(run, runs))) == "finished":
        print(f"run '{run}' is finished: nothing to do", file=sys.stderr)
    training(lambda: api.resume(run, runs, overrides=option or (), accept_changes=accept_changes), as_json)


@command
def stop(
    run: Annotated[str, typer.Argument(help="id of the run or its folder")],
    now: Annotated[bool, typer.Option("--now", help="at the next step instead of after the current task")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Stop a run so that it can be resumed: lab stop RUN"""
    from lab.jobs import jobs

    opened = run_folder.Run.open(run, runs)
    jobs.stop(opened, now)
    answer = {"run": run, "stop": "now" if now else "after the current task"}
    if as_json:
        show_json(answer)
    elif opened.status == "running":
        print(f"run '{run}' will stop {answer['stop']}")
    else:
        print(
            f"run '{run}' is {opened.status}; go on with: lab resume {run}{f' --runs {shlex.quote(str(runs))}' if runs else ''}"
        )


@command
def show(
    run: Annotated[str, typer.Argument(help="id of the run or its folder")],
    decompose: Annotated[
        bool, typer.Option("--decompose", help="where the losses of old tasks losses; measured at the first time, then kept")
    ] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """One run with its metrics and matrix: lab show RUN"""
    opened = run_folder.Run.open(run, runs)
    losses = {"decomposition": decomposed(opened)} if decompose else {}
    if as_json:
        show_json(opened.result() | losses)
        return
    print_result(opened)
    if losses:
        print_decomposition(losses["decomposition"])


def decomposed(run: run_folder.Run) -> dict[str, Any]:
    """The decomposition of a run, with its progress on stderr where it is measured now."""
    from lab.analysis.loss_decomposition import decompose

    with counted("looking back at task") as watch:
        return decompose(run, watch)


@command
def compare(
    ids: Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="ids of runs or their folders")] = None,
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
        from lab.figures import report as reports

        reports.check(report)
    compared, excluded = comparable(ids or [], runs)
    streams, others = ([run for run in compared if run.protocol.continual is wanted] for wanted in (True, False))
    parts = [part for part in (streams, others) if part]
    for part in parts:
        say_unequal(part)
    if report is not None:
        if not streams:
            raise LabError("a report is about runs on a stream, transfer runs have a table: leave --report away")
        for run in others:
            excluded[run.id] = f"run '{run.id}' is of protocol {run.protocol.name}, which has a table of its own"
        reports.write(streams, report, excluded)
        print(f"the report is in {report}", file=sys.stderr)
    if as_json:
        show_json([run.result() for run in compared])
    elif chosen:
        from lab.comparison import tables

        print("\n".join(tables.FORMATS[chosen[0]](part) for part in parts), end="")
    elif report is None:
        for part in parts:
            print_comparison(part)


def comparable(ids: List[str], runs: Path | None) -> tuple[List[run_folder.Run], dict[str, str]]:
    """The runs that can be compared, and the reasons of those left out, which it prints on stderr; LabError if none is left."""
    from lab import views

    if not ids:
        raise LabError("name at least one run to compare: lab compare RUN RUN; lab list runs shows them")
    kept, excluded = [], {}
    for id in dict.fromkeys(ids):
        try:
            run = run_folder.Run.open(id, runs)
            reason = views.problem(run)
        except LabError as error:
            if not os.path.lexists(run_folder.located(id, runs) / "run.json"):
                raise
            reason = str(error)
        if reason:
            excluded[id] = reason
        else:
            kept.append(run)
    kept, incomparable = views.comparable(kept)
    excluded |= incomparable
    if not kept:
        raise LabError(f"there is nothing to compare: {'; '.join(excluded.values())}")
    for reason in excluded.values():
        print(f"left out: {reason}", file=sys.stderr)
    return kept, excluded


@command
def replay(
    what: Annotated[str, typer.Argument(metavar="RUN|FILE", help="a run, or a replay file (.jsonl)")],
    save: Annotated[Path | None, typer.Option(help="write the replay file of the run there instead of playing it")] = None,
    speed: Annotated[float, typer.Option(help="how many times as fast as it was recorded")] = 10.0,
    runs: Runs = None,
) -> None:
    """Play a run that has ended as if it were live, or save it as one small file for a machine without torch"""
    from lab.core import atomic_io
    from lab.jobs import jobs
    from lab.run_folder import replay_file as replays

    if what.endswith(".jsonl"):
        content = replays.file_content(Path(what))
    else:
        opened = run_folder.Run.open(what, runs)
        content = opened.bytes_of(replays.FILE) if opened.info.get("replay") else replays.trace(opened)
    if save is None:
        played = jobs.play(content, speed, runs)
        print(f"{played.id} plays; watch it with: lab app --runs {shlex.quote(str(played.dir.parent))}", file=sys.stderr)
        return
    try:
        replays.read(content)
        atomic_io.replace_bytes(save, content)
    except OSError as error:
        raise LabError(f"the replay file {save} cannot be written: {error.strerror}") from error
    print(f"the replay file is {save} ({len(content):,} bytes)", file=sys.stderr)


@command
def prune(
    run: Annotated[str, typer.Argument(help="id of the run or its folder")],
    share: Annotated[float, typer.Option(help="part of the routing's load that the kept experts carry, in (0, 1]")] = 0.9,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """The fewest experts that carry the load of a run, and its scores without the others: lab prune RUN --share 0.9"""
    from lab.analysis.pruning import pruned

    with counted("evaluating task") as watch:
        answer = pruned(run_folder.Run.open(run, runs), share, watch)
    show_json(answer) if as_json else print_pruning(answer)


@command
def grid(
    file: Annotated[str, typer.Argument(help="a grid file, or a shipped grid by its name")],
    processes: Annotated[int, typer.Option(min=1, max=512, help="cells that run at the same time")] = 1,
    look: Annotated[bool, typer.Option("--look", help="run nothing, show what is finished")] = False,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Recipes x streams x orders x scenarios x seeds x swept options, compared: lab grid FILE"""
    from lab.comparison.grid_runner import Grid
    from lab.training.progress_line import follow_cells

    opened = Grid(file, runs, processes)
    try:
        with closing(opened.work()) as steps:
            if not look:
                follow_cells(steps)
    except KeyboardInterrupt:
        print("lab: interrupted; the same command goes on with it", file=sys.stderr)
        raise typer.Exit(1) from None
    show_json(opened.result()) if as_json else print_grid(opened.result())
    if look:
        print(
            f"lab: {len(opened.unfinished())} of the {len(opened.planned())} cells known so far are not finished", file=sys.stderr
        )
        return
    for id, reason in opened.unfinished().items():
        print(f"lab: cell {id} is not finished: {reason}", file=sys.stderr)
    if opened.unfinished():
        raise typer.Exit(1)


@command
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


@command
def list(what: Annotated[str, typer.Argument(help=", ".join(LISTS))], runs: Runs = None, as_json: Json = False) -> None:
    """What there is: lab list recipes"""
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    rows = listing(what, runs)
    show_json(rows) if as_json else print_table(rows)


def listing(what: str, runs: Path | None) -> List[dict[str, Any]]:
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
        return [listed(run) for run in run_folder.all_runs(runs)]
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
    return rows


def listed(run: run_folder.Run) -> dict[str, Any]:
    """The row of a run in `lab list runs`; that of a run that cannot be read holds the reason."""
    from lab.views import judged, run_row

    row = run_row(run)
    if row["status"] == "damaged":
        return {"name": run.id, "status": "damaged", "error": row["reason"]}
    names = ("status", "recipe", "stream", "scenario", "seed", *(measure.path for measure in judged()))
    return {"name": run.id} | {name: row[name] for name in names}


@command
def env(as_json: Json = False) -> None:
    """Versions and machine: lab env"""
    import torch

    from lab.run_folder.writer import environment

    facts = environment()
    facts["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["bfloat16_cpu"] = torch.cpu._is_avx512_bf16_supported()
    show_json(facts) if as_json else print_table([{"what": key, "value": value} for key, value in facts.items()])


@command
def app_(
    port: Annotated[int, typer.Option(help="port of the page")] = 8501,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 lets others come, with --token")] = "127.0.0.1",
    token: Annotated[
        bool, typer.Option("--token", help="ask for a key; the links that hold it are printed ($LAB_TOKEN sets it)")
    ] = False,
    allow_training: Annotated[
        bool, typer.Option("--allow-training", help="visitors can start, stop and delete runs too, not only the owner")
    ] = False,
    allow_host: Annotated[
        List[str] | None,
        typer.Option(help="another name that the page is called by, behind a proxy; *.example.org for all under one"),
    ] = None,
    owner: Annotated[str | None, typer.Option(help="e-mail address of the owner, where Streamlit's login is set up")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="nobody can start, stop or delete runs from the page")] = False,
    runs: Runs = None,
) -> None:
    """Open the dashboard: lab app"""
    from lab.pages import launch

    launch(port, runs, read_only, host, allow_host or (), token, allow_training, owner)
