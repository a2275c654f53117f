"""One bad folder harms nobody: it is named with its reason, and everything else goes on."""

import json
import os

import pytest
from support.damage import KINDS, OUTSIDE, break_in_every_way, break_inside
from support.run_folders import write_run
from typer.testing import CliRunner

from lab import views
from lab.cli.main import app
from lab.core.errors import LabError
from lab.run_folder.run import Run, all_runs

GOOD = ("one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good runs among bad ones of every kind, and the words that must be said about these."""
    runs = tmp_path_factory.mktemp("inner") / "runs"
    for seed, name in enumerate(GOOD):
        write_run(runs, name, seed=seed, events=False)
    words = break_in_every_way(runs, runs / "one")
    break_inside(runs)
    nameless = os.fsencode(runs) + b"/\xff\xfe"
    os.mkdir(nameless)
    with open(nameless + b"/run.json", "w") as file:
        file.write("{")
    return runs, words


def call(*words: object):
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code in (0, 1, 2) and isinstance(result.exception, SystemExit | None), result.exception
    return result


def test_all_runs_are_listed(folder):
    runs, words = folder
    rows = {row["name"]: row for row in json.loads(call("list", "runs", "--runs", runs, "--json").stdout)}
    assert {rows[name]["status"] for name in GOOD} == {"finished"}
    for name, word in words.items():
        assert rows[name]["status"] == "damaged" and word in rows[name]["error"], (name, rows[name])
        assert name in rows[name]["error"] and "\n" not in rows[name]["error"] and OUTSIDE not in rows[name]["error"]
    assert rows["\\xff\\xfe"]["status"] == "damaged" and call("list", "runs", "--runs", runs).exit_code == 0


def test_commands_on_a_bad_run_give_one_line(folder):
    runs, words = folder
    for name, word in words.items():
        for command in ("show", "stop", "prune", "replay") if name != "bad-notes" else ():  # which nobody needs there
            result = call(command, name, "--runs", runs)
            assert result.exit_code == 2 or command == "stop", (command, name, result.output)
            assert result.stderr.count("\n") <= 1 and OUTSIDE not in result.output
            assert command != "show" or word in result.stderr, (name, result.stderr)


def test_the_others_are_compared_and_reported(folder, tmp_path):
    runs, words = folder
    report = tmp_path / "report.html"
    result = call("compare", *GOOD, *words, "--runs", runs, "--report", report)
    assert result.exit_code == 0 and result.stderr.count("left out: ") == len(words)
    assert OUTSIDE not in report.read_text() and "bad-fifo" in report.read_text()
    assert call("compare", *words, "--runs", runs).exit_code == 2


def test_broken_inner_files_are_named_or_passed_over(folder):
    runs, _ = folder
    odd = {run.id.removeprefix("odd-"): run for run in all_runs(runs) if run.id.startswith("odd-")}
    assert all(not views.problem(run) for run in odd.values())
    for name in ("routing", "routing-fifo", "routing-shape"):
        with pytest.raises(LabError, match=f"run 'odd-{name}' is damaged: routing/after_2.safetensors "):
            odd[name].routing()
    for name in ("predictions", "predictions-huge"):
        with pytest.raises(LabError, match=f"run 'odd-{name}' is damaged: predictions/after_2.parquet "):
            odd[name].predictions()
    assert views.losses(odd["events"]).equals(views.losses(odd["log"]))
    for read in (lambda: [*odd["events-fifo"].events()], odd["events-fifo"].newest_events, lambda: views.log_tail(odd["log"])):
        with pytest.raises(LabError, match="no regular file"):
            read()


def test_a_link_within_the_folder_is_followed(folder):
    runs, _ = folder
    (runs / "alias").symlink_to(runs / "one")
    assert Run.open("alias", runs).recorded_scores == Run.open("one", runs).recorded_scores
    (runs / "alias").unlink()


def test_there_are_many_kinds():
    assert len(KINDS) > 30
