"""The command line: results on stdout, progress on stderr, exit codes, and one line for whatever cannot be."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import toy
from support.run_folders import KEEPS, write_run
from typer.testing import CliRunner

from lab import api
from lab.cli import main
from lab.config.resolve import configure
from lab.models.heads import Classification
from lab.models.pretrained import HashTokenizer
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run
from lab.training import recorder

TOY = [word for option in toy.overrides("l2r") for word in ("-o", option)]
LISTED = {
    "recipes": {"l2r", "l2r-merge", "oracle", "replay", "sequential", "uniform"},
    "streams": {"builtin", "mtl5", "wos", "afrisenti", "long15"},
    "routers": {"gates", "oracle", "uniform"},
    "methods": {"agem", "derpp", "ewc", "lwf", "replay"},
    "experts": {"lora", "bottleneck"},
    "backbones": {"minilm", "tiny"},
    "runs": {"first", "second"},
}


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return toy.folder(tmp_path_factory.mktemp("stream") / "toy")


@pytest.fixture(scope="module")
def two(stream, tmp_path_factory):
    """A runs folder with a finished run of l2r and one of sequential, and what the command printed."""
    root = tmp_path_factory.mktemp("two")
    first = lab(
        "run", "l2r", *TOY, "--stream", str(stream), "--backbone", "tiny", "--seed", "1", "--id", "first", "--json", runs=root
    )
    second = lab(
        "run", "sequential", "-o", "train.lr=0.02", "--stream", str(stream), "--backbone", "tiny", "--id", "second", runs=root
    )
    return root, first, second


def lab(*words: str, runs: Path | None = None):
    """The command in this process; what it printed, and its exit code."""
    return CliRunner().invoke(main.app, [*words, *(["--runs", str(runs)] if runs else [])])


def refused(result, message: str) -> None:
    """Exit code 2 and one line, `message`."""
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and result.stderr == f"lab: {message}\n"


# run --------------------------------------------------------------------------------------------------------------------------


def test_run_prints_json_on_stdout_and_progress_on_stderr(two):
    root, first, second = two
    assert first.exit_code == second.exit_code == 0
    result = json.loads(first.stdout)
    assert result == json.loads(json.dumps(Run.open("first", root).result()))
    assert (result["run"], result["seed"], result["recipe"], result["backbone"]) == ("first", 1, "l2r", "tiny")
    assert result["tasks"] == ["city", "sea"], "alphabetical where no order is given"
    assert "after city: average" in first.stderr and "after sea: average" in first.stderr and "whole run" in first.stderr
    assert "whole run" not in second.stdout and "Average accuracy" in second.stdout and "before training" in second.stdout


def test_run_in_a_process_of_its_own(stream, tmp_path):
    few = ["stream.tasks=[sea, city]", "train.epochs=1", "stream.max_train=8"]
    words = ["run", "sequential", *few, "--stream", str(stream), "--backbone", "tiny", "--json"]
    done = child(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tasks"] == ["sea", "city"] and Path(result["dir"]).parent == Path("runs")
    assert (tmp_path / result["dir"] / "run.json").is_file()


def child(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    root = str(Path(main.__file__).parents[2])
    env = {key: value for key, value in os.environ.items() if key != "LAB_RUNS"} | {"PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "lab", *words], cwd=cwd, env=env, capture_output=True, text=True)


def test_a_request_that_is_wrong_in_a_process_of_its_own(tmp_path):
    done = child("run", "l2", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "lab: unknown recipe 'l2': did you mean 'l2r'?\n")
    assert not [*tmp_path.iterdir()]


def test_lab_runs_names_the_folder(stream, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "named"))
    assert lab("run", "sequential", "--stream", str(stream), "--backbone", "tiny", "--id", "a").exit_code == 0
    assert (tmp_path / "named" / "a" / "run.json").is_file()
    assert json.loads(lab("list", "runs", "--json").stdout)[0]["name"] == "a"


# list, show, compare, validate, env -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", LISTED)
def test_list(what, two):
    rows = json.loads(lab("list", what, "--json", runs=two[0]).stdout)
    assert {row["name"] for row in rows} >= LISTED[what]
    table = lab("list", what, runs=two[0])
    assert table.exit_code == 0 and all(name in table.stdout for name in LISTED[what])
    if what in ("routers", "methods", "experts"):
        assert all(text for row in rows for text in row["options"].values()) and all(row["about"] for row in rows)


def test_a_broken_plugin_hides_no_other_in_a_list(monkeypatch, tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "torn.py").write_text("import no_such_module\n")
    monkeypatch.setenv("LAB_PLUGINS", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(lab("list", "metrics", "--json").stdout)}
    assert "no_such_module" in rows["torn"]["error"] and rows["forgetting"]["about"]
    assert lab("list", "metrics").exit_code == 0


def test_list_runs(two, tmp_path):
    rows = json.loads(lab("list", "runs", "--json", runs=two[0]).stdout)
    assert [(row["name"], row["status"], row["recipe"]) for row in rows] == [
        ("first", "finished", "l2r"),
        ("second", "finished", "sequential"),
    ]
    assert json.loads(lab("list", "runs", "--json", runs=tmp_path / "none").stdout) == []
    assert lab("list", "runs", runs=tmp_path / "none").stdout == "none\n"


def test_one_damaged_run_does_not_hide_the_others(two, tmp_path):
    config = Run.open("first", two[0]).config
    for name, file, content in [
        ("a", "config.yaml", ""),
        ("b", "run.json", "{"),
        ("c", "run.json", '{"format": 99}'),
        ("d", "matrix.json", "[]"),
        ("f", "config.yaml", "{}"),
        ("g", "notes.json", "{"),
    ]:
        (create_run(config, tmp_path, name).dir / file).write_text(content)
    create_run(config, tmp_path, "e")
    rows = {row["name"]: row["status"] for row in json.loads(lab("list", "runs", "--json", runs=tmp_path).stdout)}
    assert rows == {"a": "damaged", "b": "damaged", "c": "damaged", "d": "damaged", "e": "queued", "f": "damaged", "g": "damaged"}
    assert lab("list", "runs", runs=tmp_path).exit_code == 0


def test_show(two):
    root, first, _ = two
    assert json.loads(lab("show", "first", "--json", runs=root).stdout) == json.loads(first.stdout)
    shown = lab("show", "first", runs=root)
    assert (
        shown.exit_code == 0
        and "before training" in shown.stdout
        and "forward_transfer: needs single-task scores" in shown.stdout
    )


def test_compare(two):
    root, first, _ = two
    results = json.loads(lab("compare", "first", "second", "--json", runs=root).stdout)
    assert [result["run"] for result in results] == ["first", "second"] and results[0] == json.loads(first.stdout)
    shown = lab("compare", "first", "second", runs=root)
    assert shown.exit_code == 0 and "sequential" in shown.stdout and shown.stderr == ""


def test_unknown_runs(two):
    for words in (["show", "frist"], ["compare", "first", "frist"], ["stop", "frist"], ["resume", "frist"]):
        refused(lab(*words, runs=two[0]), "unknown run 'frist': did you mean 'first'?")


def test_unknown_list(two):
    refused(lab("list", "recipe"), "unknown list 'recipe': did you mean 'recipes'?")


def test_validate(two, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: l2r\nseed: 4\n")
    config = json.loads(lab("validate", str(path), "--json").stdout)
    assert (config["recipe"], config["seed"], config["router"]["name"]) == ("mine", 4, "gates")
    assert lab("validate", str(path)).stdout == f"{path} is valid: recipe mine, stream builtin\n"
    assert lab("validate", str(two[0] / "first" / "config.yaml")).exit_code == 0
    path.write_text("base: l2r\ntrain: {lr: fast}\n")
    refused(lab("validate", str(path)), "train.lr = 'fast': input should be a valid number, unable to parse string as a number")
    refused(
        lab("validate", "l2r"),
        "'l2r' is neither a YAML file nor data: validate takes a recipe, a folder of tasks, or a table",
    )
    refused(lab("validate", str(tmp_path / "no.yaml")), f"there is no recipe file {tmp_path / 'no.yaml'}")


def test_data_is_checked_and_what_is_done_to_it_is_said(two, stream, tmp_path):
    """By validate before a run, by the run while it works, and by show afterwards."""
    task, reading = next(stream.iterdir()), "label column of train.jsonl, validation.jsonl, test.jsonl read as names"
    rows = json.loads(lab("validate", str(stream), "--json").stdout)
    assert {row["task"] for row in rows} == {folder.name for folder in stream.iterdir()} and all(row["train"] for row in rows)
    for said in (lab("validate", str(stream)).stdout, two[2].stderr, lab("show", "second", runs=two[0]).stdout):
        assert f"task '{task.name}': {reading}" in said
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "train.csv").write_text("body;topic\na;b\n")
    for words in (["validate", str(tmp_path)], ["run", "sequential", "--stream", str(tmp_path), "--backbone", "tiny"]):
        result = lab(*words, runs=tmp_path / "runs" if words[0] == "run" else None)
        assert result.exit_code == 2 and '{"fields": {"text": "body", "label": "topic"}}' in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_env():
    facts = json.loads(lab("env", "--json").stdout)
    assert {"lab", "python", "packages", "cores", "cuda"} <= set(facts) and "torch" in facts["packages"]
    assert "python" in lab("env").stdout


# stop, resume -------------------------------------------------------------------------------------------------------------------


def test_stop_and_resume(stream, tmp_path):
    config = configure("l2r", toy.overrides("l2r"), stream=str(stream), backbone="tiny")
    run = create_run(api.session(config).config.to_dict(), tmp_path, "a")
    queued = lab("stop", "a", runs=tmp_path)
    assert queued.stdout == f"run 'a' is stopped; go on with: lab resume a --runs {tmp_path}\n" and run.status == "stopped"
    for words, status, answer in (["--now", "--json"], "interrupted", "now"), (["--json"], "stopped", "after the current task"):
        happenings = recorder.record(run, api.session(config, tmp_path))
        next(happenings)
        assert json.loads(lab("stop", "a", *words, runs=tmp_path).stdout) == {"run": "a", "stop": answer}
        with pytest.raises(recorder.Stopped):
            list(happenings)
        assert run.status == status
    assert len(run.matrix) == 1
    refused(lab("stop", "a", runs=tmp_path), "run 'a' is stopped: there is nothing to stop")
    done = lab("resume", "a", "--json", runs=tmp_path)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
    again = lab("resume", "a", "--json", runs=tmp_path)
    assert again.exit_code == 0 and again.stderr == "run 'a' is finished: nothing to do\n" and again.stdout == done.stdout


def test_ctrl_c(stream, tmp_path, monkeypatch):
    real = recorder.Recorder.write_step

    def interrupt(self, event):
        real(self, event)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "write_step", interrupt)
        result = lab("run", "l2r", *TOY, "--stream", str(stream), "--backbone", "tiny", "--id", "a", runs=tmp_path)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.endswith(f"lab: interrupted; go on with: lab resume a --runs {tmp_path}\n")
    assert Run.open("a", tmp_path).status == "interrupted"
    assert lab("resume", "a", runs=tmp_path).exit_code == 0 and Run.open("a", tmp_path).status == "finished"


# runs that fail -----------------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite(stream, tmp_path, monkeypatch):
    real = Classification.isolated_loss
    calls = itertools.count()
    words = ["run", "l2r", *TOY, "--stream", str(stream), "--backbone", "tiny", "--id", "a"]
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "isolated_loss", lambda *args: real(*args) * (float("nan") if next(calls) > 4 else 1))
        result = lab(*words, runs=tmp_path)
    assert result.exit_code == 1 and result.stdout == "" and "Traceback" not in result.stderr
    reason = result.stderr.splitlines()[-1].removeprefix("lab: the run failed: ")
    assert "not finite at step 6" in reason and "'city': lower train.lr" in reason
    shown = json.loads(lab("show", "a", "--json", runs=tmp_path).stdout)
    assert shown["status"] == "failed" and shown["why"]["status"] == reason
    assert not [*(tmp_path / ".experts").glob("*.safetensors")] and "RunFailed" in (tmp_path / "a" / "log.txt").read_text()
    assert lab("resume", "a", runs=tmp_path).exit_code == 0


def test_a_rate_that_is_far_too_high(stream, tmp_path):
    result = lab(
        "run",
        "l2r",
        *TOY,
        "-o",
        "train.lr=10",
        "-o",
        "train.clip=0",
        "--stream",
        str(stream),
        "--backbone",
        "tiny",
        "--id",
        "a",
        runs=tmp_path,
    )
    status = Run.open("a", tmp_path).status
    assert (result.exit_code, status) in ((0, "finished"), (1, "failed")) and "Traceback" not in result.output


def test_an_error_of_another_kind_is_one_line(stream, tmp_path, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(Classification, "loss", broken)
    result = lab("run", "sequential", "--stream", str(stream), "--backbone", "tiny", "--id", "a", runs=tmp_path)
    assert result.exit_code == 1 and result.stderr.splitlines()[-1] == "lab: the run failed: ZeroDivisionError: first line"


# requests that are wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["l2"], "unknown recipe 'l2': did you mean 'l2r'?"),
        (["nothing.yaml"], "there is no recipe file nothing.yaml"),
        (["l2r", "--stream", "bultin"], "unknown stream 'bultin': did you mean 'builtin'?"),
        (["l2r", "--stream", "no/such/folder"], "stream folder no/such/folder does not exist: "),
        (["l2r", "-o", "trian.lr=1"], "unknown option 'trian': did you mean 'train'?"),
        (["l2r", "-o", "train.lr"], "'train.lr' is not an option: write key=value, for example train.lr=0.001"),
        (["l2r", "-o", "stream.tasks=[see]"], "unknown task 'see': did you mean 'sea'?"),
        (["l2r", "-o", "stream.tasks=[sea, sea]"], "stream.tasks names a task twice: sea, sea"),
        (["l2r", "-o", "stream.tasks=[]"], "stream.tasks is empty: name at least one task"),
        (["l2r", "-o", "stream.tasks=mtl5-i"], "unknown order 'mtl5-i': there are: none"),
        (["l2r", "--backbone", "tiney"], "unknown backbone 'tiney': did you mean 'tiny'?"),
        (["l2r", "-o", "backbone.device=gpu"], "backbone.device = 'gpu' is unknown: use auto, cpu, cuda or cuda:N"),
        (["l2r", "-o", "backbone.device=cuda:77"], "backbone.device = 'cuda:77': this machine has "),
        (
            ["l2r", "-o", "experts.targets=[nothing]"],
            "experts.targets = ['nothing'] matches no linear layer of this backbone; there are dense, key",
        ),
        (
            ["l2r", "-o", "memory.per_task=1"],
            "memory.per_task = 1 is smaller than the 2 classes of task 'city': store at least 2",
        ),
        (
            ["l2r", "-o", "router.heads=5"],
            "router.heads = 5 does not divide the width 32 of layer encoder.layer.1.attention.self.query: ",
        ),
        (["l2r", "-o", "train.lr=0"], "train.lr = 0: input should be greater than 0"),
        (["l2r", "-o", "train.lr=nan"], "train.lr = 'nan': input should be a finite number"),
        (["l2r", "-o", "train.epochs=0"], "train.epochs = 0: input should be greater than or equal to 1"),
        (["l2r", "-o", "train.batch_size=1e9"], "train.batch_size = 1000000000.0: input should be less than or equal to 4096"),
        (["l2r", "-o", "stream.max_train=1"], "stream.max_train = 1: input should be greater than or equal to 2"),
        (["l2r", "-o", "experts.rank=99999"], "experts.rank = 99999: input should be less than or equal to 1024"),
        (["l2r", "--seed", "-1"], "seed = -1: input should be greater than or equal to 0"),
        (["l2r", "--seed", "99999999999"], "seed = 99999999999: input should be less than or equal to 2147483647"),
        (["l2r", "--id", "../x"], "'../x' cannot be a run id: use up to 80 of a-z 0-9 _ . - and begin with a letter or digit"),
    ],
)
def test_wrong_requests(words, message, stream, tmp_path):
    given = [
        *words,
        *(["--stream", str(stream)] if "--stream" not in words else []),
        *(["--backbone", "tiny"] if "--backbone" not in words else []),
    ]
    result = lab("run", *given, runs=tmp_path / "runs")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1, result.output
    assert result.stderr.startswith(f"lab: {message}")
    assert not (tmp_path / "runs").exists()


def pairs(text: str) -> list[tuple[str, str]]:
    """`a no, b yes` as texts and labels."""
    return [tuple(pair.split()) for pair in text.split(", ")]


def spoil(stream: Path, **rows: list) -> None:
    """Replace splits of the task city."""
    for split, content in rows.items():
        lines = [
            row if isinstance(row, bytes) else json.dumps(dict(zip(("text", "label"), row, strict=True))).encode()
            for row in content
        ]
        (stream / "city" / f"{split}.jsonl").write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"validation": []}, "task 'city': validation.jsonl (validation) holds no rows"),
        ({"test": [("tram red", "no")]}, "task 'city', test: 1 example(s); at least 2 are needed"),
        (
            {"train": pairs("a no, b no"), "validation": pairs("c no, d no"), "test": pairs("e no, f no")},
            "task 'city' has 1 label(s): a task needs at least 2",
        ),
        (
            {"train": pairs("a no, b yes"), "test": pairs("a no, c yes")},
            "task 'city': a text of test (row 0) is also in train: splits must be disjoint",
        ),
        ({"train": [("a", "no"), (" ", "yes")]}, "{city}/train.jsonl, line 2: empty text"),
        (
            {"train": [("a", "no"), b'{"text": "\xff", "label": "yes"}']},
            "{city}/train.jsonl, line 2: not UTF-8 (byte 39); save the ",
        ),
        ({"train": [("a", "no"), b'{"text": ']}, "{city}/train.jsonl, line 2: broken JSON (Expecting value at column 10); each "),
        (
            {"test": pairs("a no, b maybe")},
            "{city}/test.jsonl, line 2: label 'maybe' is not in the list: no, yes (taken from the ",
        ),
        (
            {"train": [(f"text {i}", f"{i}") for i in range(10_000)], "validation": pairs("a 1, b 2"), "test": pairs("c 1, d 2")},
            "task 'city' has 10,000 labels: at most 1,000 are allowed; is the label column an identifier?",
        ),
    ],
)
def test_wrong_streams(rows, message, tmp_path):
    stream = toy.folder(tmp_path / "s")
    spoil(stream, **rows)
    result = lab("run", "l2r", "--stream", str(stream), "--backbone", "tiny", runs=tmp_path / "runs")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"lab: {message.format(city=stream / 'city')}"), result.stderr
    assert not (tmp_path / "runs").exists()


def test_missing_training_rows(tmp_path):
    stream = toy.folder(tmp_path / "s")
    (stream / "city" / "train.jsonl").unlink()
    result = lab("run", "l2r", "--stream", str(stream), "--backbone", "tiny", runs=tmp_path / "runs")
    assert result.exit_code == 2 and f"{stream}/city has no training rows" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_what_was_done_to_the_data_is_said(tmp_path):
    stream = toy.folder(tmp_path / "s")
    (stream / "city" / "validation.jsonl").unlink()
    result = lab("run", "sequential", "--stream", str(stream), "--backbone", "tiny", "--id", "a", runs=tmp_path / "runs")
    assert "task 'city': there is no validation split: 10 of 48 training rows are it" in result.stderr
    started = next(Run.open("a", tmp_path / "runs").events("RunStarted"))
    assert any("no validation split" in note for note in started["notes"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "backbone folder {0} has no config.json: it must hold a model saved by transformers"),
        (["config.json"], "backbone folder {0} has no weights: model.safetensors is missing"),
        (
            ["config.json", "pytorch_model.bin"],
            "backbone folder {0} has no weights: model.safetensors is missing (pickled .bin weights are not ",
        ),
        (
            ["config.json", "model.safetensors"],
            "backbone folder {0} has no tokenizer: tokenizer.json or tokenizer_config.json is missing",
        ),
        (["config.json", "model.safetensors", "tokenizer.json"], "backbone '{0}' cannot be loaded: "),
    ],
)
def test_wrong_backbones(files, message, stream, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    result = lab("run", "l2r", "--stream", str(stream), "--backbone", str(folder), runs=tmp_path / "runs")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"lab: {message.format(folder)}"), result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_runs_folder_that_is_read_only_or_full(number, stream, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    (tmp_path / "runs").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("lab.core.atomic_io.os.replace", fail)
        result = lab("run", "l2r", "--stream", str(stream), "--backbone", "tiny", runs=tmp_path / "runs")
    refused(result, f"the runs folder {tmp_path / 'runs'} cannot be written: {os.strerror(number)}; name another with --runs DIR")
    assert not [*(tmp_path / "runs").iterdir()]


def test_two_runs_with_one_id(two, stream):
    root = two[0]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    result = lab("run", "l2r", "--stream", str(stream), "--backbone", "tiny", "--id", "first", runs=root)
    refused(result, f"a run called 'first' exists in {root}: choose another id or resume it")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_tiny_tokenizer_knows_words_apart():
    """The toy stream stands on this: its words have different numbers."""
    words = [word for topic in toy.TOPICS.values() for word in topic.split()] + ["red", "blue"]
    assert len({tuple(HashTokenizer().encode(word)) for word in words}) == len(words)


# runs that differ -------------------------------------------------------------------------------------------------------------


def test_compare_of_different_tasks_and_of_several_seeds(runs):
    for seed in range(3):
        write_run(runs, f"a{seed}", "l2r", KEEPS, seed=seed)
        write_run(runs, f"b{seed}", "sequential", [*KEEPS[:2], [0.5, 0.6 + seed / 50, 0.9]], seed=seed)
    write_run(runs, "c", "replay", [[0.9, None], [0.6, 0.8]], ["cooking", "gardens"])
    shown = lab("compare", *(f"{name}{seed}" for name in "ab" for seed in range(3)))
    assert shown.exit_code == 0 and shown.stderr == "" and "common" not in shown.stdout
    line = next(line for line in shown.stdout.splitlines() if line.startswith("l2r ") and "sequential" in line)
    assert "yes" in line and " 3 " in line and "0.250" in line
    mixed = lab("compare", "a0", "c")
    said = "These runs learned different tasks, so their averages mean different things; common to all: cooking."
    assert mixed.exit_code == 0 and mixed.stderr == f"{said}\n"
    assert "Average on common tasks" in mixed.stdout and "no seed and order is common to both" in mixed.stdout
