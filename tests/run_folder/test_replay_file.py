"""Replay files: what is played leaves the files of the run it was made of, looks live in between, and needs no torch."""

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from support.processes import launch_nothing
from support.run_folders import KEEPS, TASKS, write_run
from typer.testing import CliRunner

import lab
from lab import views
from lab.cli import main
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.run_folder import replay_file
from lab.run_folder.run import Run
from lab.run_folder.writer import request_stop


@pytest.fixture
def original(runs):
    return write_run(runs, "a")


def test_a_replay_ends_as_the_run_did(runs, original):
    """Same scores, routing, events and summary; on the way the pauses of the original, divided by the speed."""
    pauses = []
    made = replay_file.create(replay_file.trace(original), speed=5)
    replay_file.play(made, pauses.append)
    assert made.id == "replay-a" and made.status == "finished" and made.config == original.config
    differing = {name for name, value in made.result().items() if value != original.result()[name]}
    assert differing == {"run", "dir"}
    for after in range(3):
        assert (made.dir / "routing" / f"after_{after}.safetensors").read_bytes() == (
            original.dir / "routing" / f"after_{after}.safetensors"
        ).read_bytes()
    assert [event | {"time": 0} for event in made.events()] == [event | {"time": 0} for event in original.events()]
    times = [event["time"] for event in original.events()]
    assert pauses == pytest.approx([0.0] + [min((b - a) / 5, replay_file.LONGEST) for a, b in pairwise(times)])
    assert views.unready(made) == "run 'replay-a' is a replay of 'a', no repetition" and views.unready(original) == ""


def test_a_replay_looks_live_in_between(runs, original):
    """After each pause the folder holds what was known at that moment, and no more."""
    made = replay_file.create(replay_file.trace(original))
    seen = []

    def look(_):
        if made.recorded_scores:
            seen.append((len(made.matrix), made.recorded(), round(views.progress(made).share, 2), made.status))

    replay_file.play(made, look)
    learned = [matrix for matrix, *_ in seen]
    assert learned == sorted(learned) and set(learned) == {0, 1, 2, 3}
    assert all(matrix <= len(recorded) <= matrix + 1 for matrix, recorded, _, _ in seen)
    assert all(status == "running" for *_, status in seen)
    assert made.recorded_scores == original.recorded_scores


def test_a_replay_stops_and_is_played_again(runs, original):
    made = replay_file.create(replay_file.trace(original))
    played = iter(range(1000))
    replay_file.play(made, lambda _: request_stop(made) if next(played) == 30 else None)
    assert made.status == "stopped" and len(made.matrix) == 2 and made.recorded() == [0, 1]
    replay_file.play(made, lambda _: None)
    assert (
        made.status == "finished" and made.recorded_scores == original.recorded_scores and len([*made.events("RunStarted")]) == 1
    )
    with pytest.raises(LabError, match="is a replay: a replay file is made of a run that has ended"):
        replay_file.trace(made)


def test_a_job_plays_without_torch(runs, original):
    made = jobs.play(replay_file.trace(original), 1000)
    for _ in range(600):
        if made.status == "finished":
            break
        time.sleep(0.1)
    assert made.status == "finished" and made.recorded_scores["matrix"] == KEEPS
    code = "import sys, lab.run_folder.replay_file, lab.jobs.jobs; print('torch' in sys.modules)"
    root = str(Path(lab.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda lines: [], "no 'replay'"),
        (lambda lines: lines[1:], "no 'replay'"),
        (lambda lines: ['{"replay": 2}'], "format 2, this version plays format 1"),
        (lambda lines: lines[:1], "lacks events after it"),
        (lambda lines: [lines[0].replace('"matrix"', '"matrices"'), *lines[1:]], "lacks scores.matrix"),
        (lambda lines: [lines[0], '{"kind": "St'], "line 2 cannot be read"),
        (lambda lines: [lines[0], "3"], "line 2 cannot be read (ValueError: no JSON object)"),
        (lambda lines: [lines[0], '{"kind": "Routing", "name": "../x", "data": ""}'], "routing is named after_<k>"),
        (lambda lines: [lines[0], '{"kind": "Step"}'], "line 2 cannot be read (ValueError: no event)"),
        (
            lambda lines: [lines[0].replace('"seed": 0', '"seed": "x"'), *lines[1:]],
            "config of its head: seed: input should be a valid integer",
        ),
        (lambda lines: [lines[0].replace('"recipe"', '"rezept"'), *lines[1:]], "config of its head: recipe: field required"),
    ],
)
def test_what_is_no_replay_file_is_refused_and_leaves_nothing(runs, original, change, reason):
    content = "\n".join(change(replay_file.trace(original).decode().splitlines())).encode()
    with pytest.raises(LabError) as caught:
        replay_file.create(content)
    assert reason in str(caught.value) and [path.name for path in runs.iterdir()] == ["a"]


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted"])
def test_a_run_that_did_not_finish_is_played_to_its_last_whole_task(runs, status):
    """Not the ten steps of the third task, nor a score that was measured before its end was said."""
    half = write_run(runs, "half", matrix=KEEPS[:2], status=status, partial=[0.8])
    assert len([*half.events("TaskStarted")]) == 3
    made = replay_file.create(replay_file.trace(half))
    replay_file.play(made, lambda _: None)
    assert (
        made.status == "stopped"
        and made.recorded_scores["matrix"] == KEEPS[:2]
        and made.recorded_scores["partial"] == []
        and made.recorded() == [0, 1]
    )
    assert [event["kind"] for event in made.events()][-1] == "TaskEnded" and len([*made.events("TaskStarted")]) == 2
    atomic_io.write_json(half.dir / "matrix.json", half.recorded_scores | {"matrix": KEEPS})
    assert json.loads(replay_file.trace(half).splitlines()[0])["scores"]["matrix"] == KEEPS[:2]


def test_what_cannot_be_traced_says_why_and_speed_has_bounds(runs, original, monkeypatch):
    early = write_run(runs, "s", "sequential", [], status="failed", routed=False)
    with pytest.raises(LabError, match="run 's' is failed and has learned no task: there is nothing to play"):
        replay_file.trace(early)
    with pytest.raises(LabError, match="run 'q' is queued: a replay file is made of a run that has ended"):
        replay_file.trace(write_run(runs, "q", matrix=[], status="queued", events=False))
    size = len(replay_file.trace(original))
    with monkeypatch.context() as small:
        small.setattr(replay_file, "LARGEST", size - 1)
        with pytest.raises(LabError, match=f"'a' would have {size:,} bytes: at most {size - 1:,} are played"):
            replay_file.trace(original)
    with pytest.raises(LabError, match=r"0\.1 to 1000 times as fast"):
        replay_file.create(replay_file.trace(original), speed=0)


def test_command_saves_and_plays(runs, original, tmp_path, monkeypatch):
    launch_nothing(monkeypatch)

    def call(*words):
        return CliRunner().invoke(main.app, ["replay", *words, "--runs", str(runs)])

    assert call("a", "--save", str(tmp_path / "a.jsonl")).exit_code == 0
    head = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert head["run"] == "a" and head["scores"]["tasks"] == TASKS
    assert "replay-a plays" in call(str(tmp_path / "a.jsonl")).stderr and Run.open("replay-a", runs).status == "lost"
    for words, reason in ((["b"], "unknown run 'b'"), (["x.jsonl"], "there is no replay file x.jsonl")):
        result = call(*words)
        assert result.exit_code == 2 and reason in result.stderr
    refused = CliRunner().invoke(main.app, ["resume", "replay-a", "--runs", str(runs)])
    assert refused.exit_code == 2 and "is a replay: there is nothing to train" in refused.stderr
