"""The run folder: whole files or none, damaged ones, ids, and exactly the JSON that product.md promises."""

import errno
import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import toy
from support.errors import assert_says
from support.run_folders import write_run, write_transfer

from lab.config.resolve import configure
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder import events, writer
from lab.run_folder import run as run_module
from lab.run_folder.run import Run, all_runs
from lab.run_folder.writer import append_event, claim, create_run, request_stop, update_info
from lab.training import progress_line, recorder

CONFIG = configure("l2r", stream="builtin", backbone="tiny").to_dict()
FIELDS = set(
    [
        "run",
        "dir",
        "status",
        "recipe",
        "scenario",
        "backbone",
        "seed",
        "tasks",
        "matrix",
        "zero_shot",
        "average_accuracy",
        "forgetting",
        "backward_transfer",
        "forward_transfer",
        "learning_accuracy",
        "routing",
        "uses",
        "cost",
    ]
)
MORE = {"stream", "why"}  # besides those of the example


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return toy.recorded(toy.session("l2r"), tmp_path_factory.mktemp("runs"), "done")


def test_the_command_that_goes_on_can_be_copied(tmp_path):
    stopped = recorder.Stopped("stopped", Run(tmp_path / "my runs" / "a"))
    words = shlex.split(str(stopped).partition("go on with: ")[2])
    assert words == ["lab", "resume", "a", "--runs", str(tmp_path / "my runs")]


def test_names_of_tasks_are_shown_as_they_are_in_the_terminal(capsys):
    """In brackets they would be markup, a wrong one an error."""
    session = SimpleNamespace(task_names=["[red]", "[/]"], tasks=[SimpleNamespace(name="[red]"), SimpleNamespace(name="[/]")])
    session.progress = lambda: 0.0
    for task, name in enumerate(session.task_names):
        list(progress_line.follow(iter([events.Evaluating(0, task, 1, 2, 0.5)]), session))
        assert f"evaluating {name}" in capsys.readouterr().err


def test_arrays_of_any_layout_are_read_back(tmp_path):
    plain = np.arange(24.0).reshape(2, 3, 4)
    odd = {"turned": plain.transpose(2, 0, 1), "repeated": np.broadcast_to(plain[:1], (5, 3, 4)), "one": np.array(3.0)}
    atomic_io.write_arrays(tmp_path / "a.safetensors", odd)
    written, _ = atomic_io.read_arrays(tmp_path / "a.safetensors")
    for name, array in odd.items():
        np.testing.assert_array_equal(written[name], array)


# files ------------------------------------------------------------------------------------------------------------------------


class Full:
    """A file that fails after some bytes, as on a full disk."""

    def __init__(self, path: Path, room: int):
        self.handle, self.room = path.open("wb"), room

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.close()

    def write(self, content: bytes):
        self.handle.write(content[: self.room])
        self.handle.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("room", [0, 1, 7, 10_000])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, room):
    path = tmp_path / "a.json"
    atomic_io.write_json(path, {"old": 1})
    with monkeypatch.context() as patch:
        patch.setattr(atomic_io, "open", lambda *args: Full(args[0], room), raising=False)
        with pytest.raises(OSError, match="No space left"):
            atomic_io.write_json(path, {"new": [1] * 99})
    assert json.loads(path.read_text()) == {"old": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    atomic_io.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"new": 2}


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_a_rename_that_fails_leaves_the_old_file(tmp_path, monkeypatch, call, error):
    path = tmp_path / "a.safetensors"
    atomic_io.write_arrays(path, {"x": np.arange(3)}, {"about": "old"})

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(atomic_io.os, call, fail)
        with pytest.raises(type(error)):
            atomic_io.write_arrays(path, {"x": np.arange(4)})
    arrays, about = atomic_io.read_arrays(path)
    assert arrays["x"].tolist() == [0, 1, 2] and about == {"about": "old"} and len([*tmp_path.iterdir()]) == 1


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_io.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not [*tmp_path.iterdir()]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert atomic_io.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ids and folders ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["..", "a/b", "A", "-a", ".a", "a b", "é", "a" * 81, "a\n", "../a"])
def test_bad_ids(tmp_path, id):
    with pytest.raises(LabError, match=r"cannot be a run id: use up to 80 of a-z 0-9 _ \. - and begin with a letter or digit"):
        create_run(CONFIG, tmp_path, id)
    with pytest.raises(LabError, match="unknown run"):
        Run.open(id, tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_taken_id(tmp_path):
    create_run(CONFIG, tmp_path, "mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LabError) as error:
        create_run(CONFIG, tmp_path, "mine")
    assert_says(error, "'mine'", "exists", str(tmp_path), "another id", "resume")
    assert sorted(tmp_path.rglob("*")) == before


def test_ids_made_by_the_lab(tmp_path):
    class Clock(writer.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 31, 14, 12, 5, tzinfo=tz)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "datetime", Clock)
        strange = CONFIG | {"recipe": "My Recipe (2)", "stream": CONFIG["stream"] | {"name": "/data/Yelp Reviews/"}}
        names = [create_run(config, tmp_path).id for config in (CONFIG, CONFIG, CONFIG, strange)]
    stem = "20260131-141205-l2r-builtin-s0"
    assert names == [stem, f"{stem}-2", f"{stem}-3", "20260131-141205-my-recipe-2-yelp-reviews-s0"]
    assert [run.id for run in all_runs(tmp_path)] == names


def test_runs_stay_in_the_order_in_which_they_were_created(tmp_path):
    for hour, id in enumerate(("b", "a", "c")):
        update_info(create_run(CONFIG, tmp_path, id), created=f"2026-01-31T1{hour}:00:00.000+00:00")
    atomic_io.write_json(tmp_path / "b" / "notes.json", {"text": "touched last"})
    assert [run.id for run in all_runs(tmp_path)] == ["b", "a", "c"]
    (tmp_path / "c" / "run.json").write_text("{")
    assert [run.id for run in all_runs(tmp_path)] == ["c", "b", "a"]  # it is not known when


def test_unknown_run_offers_the_nearest(tmp_path):
    create_run(CONFIG, tmp_path, "monday")
    with pytest.raises(LabError) as error:
        Run.open("monda", tmp_path)
    assert_says(error, "unknown run 'monda'", "'monday'")
    with pytest.raises(LabError) as error:
        Run.open("monday", tmp_path / "none")
    assert_says(error, "unknown run 'monday'", "there are: example-l2r")


def test_a_run_is_named_by_its_folder_too(tmp_path, monkeypatch):
    """Where runs of two folders stand side by side, a path takes the place of an id; a name without a separator is an id."""
    made = [create_run(CONFIG, tmp_path / folder, "mine") for folder in ("one", "two")]
    assert [Run.open(str(run.dir), tmp_path / "one") for run in made] == made
    monkeypatch.chdir(tmp_path)
    assert Run.open("two/mine").dir.resolve() == made[1].dir and Run.open("./two/mine/", "one").id == "mine"
    with pytest.raises(LabError, match="unknown run 'two/mien'"):
        Run.open("two/mien")
    monkeypatch.chdir(tmp_path / "one")
    with pytest.raises(LabError, match="unknown run 'mine'"):
        Run.open("mine")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["mkdir", "replace", "fsync"])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, call, number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((Path, "mkdir") if call == "mkdir" else (atomic_io.os, call)), fail)
    with pytest.raises(LabError) as error:
        create_run(CONFIG, tmp_path, "a")
    assert_says(error, str(tmp_path), "cannot be written", os.strerror(number), "--runs DIR")
    assert not [*tmp_path.iterdir()]


def test_runs_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"file cannot be written: Not a directory; name another with --runs DIR$"):
        create_run(CONFIG, tmp_path / "file", "a")
    assert all_runs(tmp_path / "file") == []


def test_where_runs_are(monkeypatch):
    monkeypatch.delenv("LAB_RUNS", raising=False)
    assert run_module.root() == Path("runs")
    monkeypatch.setenv("LAB_RUNS", "elsewhere")
    assert run_module.root() == Path("elsewhere") and run_module.root("given") == Path("given")


# reading ----------------------------------------------------------------------------------------------------------------------


def test_half_written_and_damaged_lines_are_skipped(tmp_path):
    run = create_run(CONFIG, tmp_path, "a")
    assert [*run.events()] == []
    learned = {"kind": "Learned", "task": 1, "name": "sea", "progress": 0.5}
    append_event(run, learned)
    append_event(run, {"kind": "SomethingNew", "text": "é\n"})
    for damage in ({"task": "1"}, {"task": 1.5}, {"progress": None}, {"name": ["sea"]}):
        append_event(run, learned | damage)
    with open(run.dir / "events.jsonl", "ab") as log:
        log.write(b'\xff\xfe\n[1, 2]\nnull\n{"kind": "Step", "st')
    assert [event["kind"] for event in run.events()] == ["Learned", "SomethingNew"]
    assert [event["task"] for event in run.events("Learned")] == [1]
    assert all("time" in event for event in run.events())


@pytest.mark.parametrize(
    ("name", "content", "read", "message"),
    [
        ("run.json", b'{"status', "status", "run 'a' is damaged: run.json cannot be read ("),
        ("run.json", b"\xff\xff", "status", "run 'a' is damaged: run.json cannot be read ("),
        ("run.json", b"[]", "status", "run 'a' is damaged: run.json holds no JSON object"),
        ("matrix.json", b"", "matrix", "run 'a' is damaged: matrix.json cannot be read ("),
        ("config.yaml", b"a: [", "config", "run 'a' is damaged: config.yaml cannot be read"),
        ("config.yaml", b"", "config", "run 'a' is damaged: config.yaml holds no mapping"),
        ("config.yaml", b"\xff", "config", "run 'a' is damaged: config.yaml cannot be read"),
    ],
)
def test_damaged_files(tmp_path, name, content, read, message):
    run = create_run(CONFIG, tmp_path, "a")
    (run.dir / name).write_bytes(content)
    with pytest.raises(LabError) as error:
        getattr(Run(run.dir), read)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_folder_of_a_newer_version(tmp_path):
    update_info(create_run(CONFIG, tmp_path, "a"), format=run_module.FORMAT + 1)
    with pytest.raises(LabError) as error:
        Run.open("a", tmp_path)
    assert_says(error, "run 'a'", "newer version", f"format {run_module.FORMAT + 1}", f"reads {run_module.FORMAT}")


def test_folders_that_are_no_runs(tmp_path):
    create_run(CONFIG, tmp_path, "a")
    (tmp_path / "b").mkdir()
    (tmp_path / ".experts").mkdir()
    (tmp_path / "c.txt").write_text("")
    assert [run.id for run in all_runs(tmp_path)] == ["a"]
    assert all_runs(tmp_path / "none") == []


def test_status_is_derived(tmp_path):
    run = create_run(CONFIG, tmp_path, "a")
    assert run.status == "queued"
    lock = claim(run)
    assert run.status == "running"
    update_info(run, process_started=run.info["process_started"] - 60)
    assert run.status == "lost", "another process has got the same number since"
    update_info(run, pid=2**22 + 1)
    assert run.status == "lost"
    update_info(run, pid=None)
    assert run.status == "lost"
    for status in run_module.TERMINAL:
        update_info(run, status=status)
        assert run.status == status
    lock.release()


def test_routing_that_is_not_there(tmp_path, finished):
    with pytest.raises(LabError) as error:
        create_run(CONFIG, tmp_path, "a").routing()
    assert_says(error, "run 'a'", "no routing", "nothing")
    with pytest.raises(LabError) as error:
        finished.routing(7)
    assert_says(error, "run 'done'", "no routing", "task 7", "[0, 1]")


def test_routing_grows_with_the_experts(finished):
    first, last = finished.routing(0), finished.routing()
    layers = len(first.layers)
    assert (first.experts, last.experts) == (["sea"], ["sea", "city"])
    assert first.mean(0).shape == (layers, 1, 1) and last.mean(1).shape == (layers, 1, 2)
    assert last.entropy(0).shape == (layers, 1) and last.examples(1).shape == (16, layers, 1, 2)
    for task in (0, 1):
        assert last.share(task).sum() == pytest.approx(1) and last.top1(task).sum(-1) == pytest.approx(np.ones((layers, 1)))
        assert last.count(task) == 20 and len(last.texts[str(task)]) == 16


# the result ---------------------------------------------------------------------------------------------------------------------


def nulls(result: dict) -> set[str]:
    """Fields that are null, `routing.x` for those one level down; the matrix apart."""
    inner = {
        f"{name}.{key}" for name in ("routing", "uses", "cost") for key, value in (result[name] or {}).items() if value is None
    }
    return inner | {name for name, value in result.items() if value is None}


def test_result_has_the_promised_fields(finished):
    result = finished.result()
    json.dumps(result, allow_nan=False)
    assert set(result) == FIELDS | MORE
    by_task = {"own_expert_share_by_task", "accuracy_by_task"}
    assert set(result["routing"]) == by_task | {"own_expert_share", "accuracy", "oracle_average_accuracy", "oracle_gap"}
    assert set(result["uses"]) == {"task_id", "stored_examples", "generated_examples"}
    promised = {"trainable_parameters", "stored_bytes", "train_s", "eval_s", "peak_memory_bytes"}
    apart = {"stored_parameters", "adapter_bytes", "memory_bytes", "statistics_bytes", "reused_s"}
    assert set(result["cost"]) == promised | apart
    assert (result["run"], result["dir"], result["status"], result["recipe"]) == ("done", str(finished.dir), "finished", "l2r")
    assert (result["scenario"], result["backbone"], result["seed"], result["tasks"]) == ("class", "tiny", 0, ["sea", "city"])
    assert [[score is None for score in row] for row in result["matrix"]] == [[False, True], [False, False]]
    assert len(result["zero_shot"]) == 2
    assert (
        nulls(result) == set(result["why"]) == {"forward_transfer"}
        and result["why"]["forward_transfer"] == "needs single-task scores"
    )
    oracle = [event["score"] for event in finished.events("OracleEvaluated")]
    assert result["routing"]["oracle_average_accuracy"] == pytest.approx(np.mean(oracle))
    assert result["routing"]["oracle_gap"] == pytest.approx(np.mean(oracle) - result["average_accuracy"])
    hits = [(finished.routing().examples(task).argmax(-1) == task).mean((1, 2)).sum() for task in range(2)]  # of 16 among 20
    assert np.mean(hits) / 20 - 1e-6 <= result["routing"]["accuracy"] <= (np.mean(hits) + 4) / 20 + 1e-6
    shares = [finished.routing().share(task)[task] for task in range(2)]
    assert result["routing"]["own_expert_share"] == pytest.approx(np.mean(shares))
    assert [*result["routing"]["own_expert_share_by_task"].values()] == pytest.approx(shares)


def test_every_null_has_a_reason(tmp_path):
    run = create_run(CONFIG, tmp_path, "new")
    result = run.result()
    assert set(result) == FIELDS | MORE and result["status"] == "queued"
    assert result["matrix"] == [] and nulls(result) == set(result["why"])
    shared = toy.recorded(toy.session("sequential"), tmp_path, "shared").result()
    assert nulls(shared) == set(shared["why"])
    assert shared["why"]["routing.own_expert_share"] == "there is one shared expert"
    update_info(run, status="failed", error="the loss is not finite")
    assert run.result()["why"]["status"] == "the loss is not finite"


def test_the_folder_holds_what_is_promised(finished):
    names = {str(path.relative_to(finished.dir)) for path in finished.dir.rglob("*") if path.is_file()}
    promised = {
        "config.yaml",
        "run.json",
        "env.json",
        "events.jsonl",
        "matrix.json",
        "router.safetensors",
        "manifest.json",
    }
    promised |= {f"predictions/after_{k}.parquet" for k in (0, 1)} | {f"routing/after_{k}.safetensors" for k in (0, 1)}
    promised |= {f"state/after_{k}/{name}.safetensors" for k in (0, 1) for name in ("router", "classifier")}
    promised |= {f"experts/{task}/adapter_{part}" for task in ("sea", "city") for part in ("config.json", "model.safetensors")}
    assert promised <= names
    assert {name for name in names - promised if not name.startswith("checkpoint/")} <= {".lock", "stored.txt"}
    assert not any(path.suffix in (".bin", ".pt", ".pkl", ".npz") for path in finished.dir.rglob("*"))
    assert "train_s" not in (finished.dir / "matrix.json").read_text()
    env = json.loads((finished.dir / "env.json").read_text())
    assert str(Path.home()) not in json.dumps(env) and {"lab", "python", "system", "packages"} <= set(env)


def test_a_request_to_stop_made_as_soon_as_a_run_is_seen_running_is_kept(tmp_path, monkeypatch):
    """An old request is forgotten at the start, one that comes the moment the status changes is not."""
    run = create_run(CONFIG, tmp_path, "one", "queued")
    request_stop(run)
    update = writer.update_info

    def seen(run, **fields):
        assert not run.stop_requested  # the old one
        update(run, **fields)
        request_stop(run)

    monkeypatch.setattr(writer, "update_info", seen)
    with claim(run):
        assert run.status == "running" and run.stop_requested


def test_a_run_shows_itself(runs):
    """In a notebook: what it is and how it stands; a folder that cannot be read is no error."""
    assert repr(write_run(runs, "a", seed=3)) == f"<Run 'a' finished: l2r on builtin, seed 3, average accuracy 0.903, in {runs}>"
    assert repr(write_run(runs, "b", matrix=[], status="queued")) == f"<Run 'b' queued: l2r on builtin, seed 0, in {runs}>"
    assert repr(write_transfer(runs, "c")).startswith("<Run 'c' finished: mhr on builtin, seed 0, in ")
    for name, content in (("run.json", "{"), ("config.yaml", "- 1"), ("matrix.json", "[]")):
        bad = write_run(runs, f"bad-{name[0]}")
        (bad.dir / name).write_text(content)
        assert repr(Run(bad.dir)) == f"<Run '{bad.id}' damaged, in {runs}>"
    assert repr(Run(runs / "x")) == f"<Run 'x' missing, in {runs}>"
