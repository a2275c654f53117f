"""The trash: a run that was removed comes back whole, and nothing is lost on the way."""

import json
import os

import pytest
from support.run_folders import write_run
from typer.testing import CliRunner

from lab.cli.main import app
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.run_folder.run import Run, all_runs
from lab.run_folder.writer import claim, lease_of, update_info
from lab.store import trash


def call(*words: object):
    return CliRunner().invoke(app, [*map(str, words)])


def content(run: Run) -> dict[str, bytes]:
    return {path.relative_to(run.dir).as_posix(): path.read_bytes() for path in run.dir.rglob("*") if path.is_file()}


def test_a_run_comes_back_as_it_was(tmp_path):
    run, other = write_run(tmp_path, "a"), write_run(tmp_path, "b")
    before = content(run)
    entry = trash.move(run)
    assert all_runs(tmp_path) == [other] and not run.dir.exists()
    assert entry == trash.chosen("a", tmp_path) and entry.size() >= sum(map(len, before.values()))
    back = trash.restore("a", tmp_path)
    assert back == run and content(back) | {".lock": b""} == before | {".lock": b""} and trash.entries(tmp_path) == []


def test_two_of_an_id_and_an_id_that_is_taken(tmp_path):
    for seed in (1, 2):
        trash.move(write_run(tmp_path, "a", seed=seed, events=False))
    newest, oldest = trash.entries(tmp_path)
    assert newest.run.config["seed"] == 2 and newest.removed > oldest.removed
    assert trash.restore("a", tmp_path).config["seed"] == 2
    with pytest.raises(LabError, match=r"a run called 'a' is in .* by now: .*--as"):
        trash.restore("a", tmp_path)
    with pytest.raises(LabError, match="cannot be a run id"):
        trash.restore("a", tmp_path, "../b")
    assert trash.restore(oldest.dir.name, tmp_path, "older").config["seed"] == 1
    with pytest.raises(LabError, match="unknown run in the trash 'x': there are: none"):
        trash.restore("x", tmp_path)


def test_what_somebody_works_on_stays(tmp_path):
    run = write_run(tmp_path, "a", matrix=[], status="queued")
    lock = claim(run)
    with pytest.raises(LabError, match="is running: stop it before removing it"):
        trash.move(run)
    lock.release()
    update_info(run, status="stopped")
    with lease_of(run), pytest.raises(LabError, match="already being worked on"):  # as a process that begins just now
        trash.move(run)
    (tmp_path / "linked").symlink_to(run.dir)
    with pytest.raises(LabError, match="link"):
        trash.move(Run(tmp_path / "linked"))
    assert run.status == "stopped" and not (tmp_path / ".trash").exists()
    entry = trash.move(run)
    assert not (entry.dir / "lease.json").exists()


def test_a_run_that_waits_leaves_the_queue_for_good(tmp_path):
    jobs.pause(True, tmp_path)
    run = jobs.enqueue(write_run(tmp_path, "a", matrix=[], status="stopped"))
    trash.move(run)
    assert jobs.waiting(tmp_path) == []
    assert trash.restore("a", tmp_path).status == "stopped" and jobs.waiting(tmp_path) == []


def test_damaged_runs_and_odd_folders(tmp_path):
    run = write_run(tmp_path, "a")
    (run.dir / "run.json").write_text("{")
    os.mkdir(run.dir / "x") or os.mkfifo(run.dir / "x" / "pipe")
    trash.move(trash.to_remove("a", tmp_path))
    for name in ("b", "~", "~1x", "c~99999999999999"):
        (tmp_path / ".trash" / name).mkdir()
    assert [entry.id for entry in trash.entries(tmp_path)] == ["a"]
    assert [entry.id for entry in trash.empty(tmp_path)] == ["a"] and len([*(tmp_path / ".trash").iterdir()]) == 4


def test_commands(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write_run(tmp_path, name, events=False)
    assert call("remove", "a", "nobody", "--runs", tmp_path).exit_code == 2 and len(all_runs(tmp_path)) == 3
    done = call("remove", "a", "b", "b", "--runs", tmp_path, "--json")
    assert [row["name"] for row in json.loads(done.stdout)] == ["a", "b"], done.output
    assert "lab restore c --runs" in call("remove", tmp_path / "c", "--runs", tmp_path).stdout
    rows = json.loads(call("list", "trash", "--runs", tmp_path, "--json").stdout)
    assert {row["name"] for row in rows} == {"a", "b", "c"} and all(row["bytes"] > 0 for row in rows)
    assert "0 runs were deleted" in call("empty-trash", "--days", 1, "--runs", tmp_path).stdout
    assert "1 runs would be deleted" in call("empty-trash", "a", "--dry-run", "--runs", tmp_path).stdout
    assert call("empty-trash", "a", "--runs", tmp_path).exit_code == 0
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    for words in (("remove", "b"), ("restore", "b"), ("empty-trash",)):
        assert call(*words, "--runs", tmp_path).exit_code == 2
    monkeypatch.delenv("LAB_READ_ONLY")
    assert call("restore", "b", "--as", "bb", "--runs", tmp_path).exit_code == 0
    assert call("restore", "a", "--runs", tmp_path).stderr == "lab: unknown run in the trash 'a': there are: c\n"
    assert [run.id for run in all_runs(tmp_path)] == ["bb"]
