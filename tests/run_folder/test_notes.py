"""What people write about a run: a name and notes, which change nothing else."""

import hashlib
import json

import pytest
from support.run_folders import configuration, write_run

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.jobs import jobs
from lab.run_folder.notes import NAME
from lab.run_folder.run import Run
from lab.run_folder.writer import create_run, update_info

EMPTY = {"name": "", "text": "", "tags": [], "starred": False, "archived": False}


def test_notes_are_kept_checked_and_refused_where_the_lab_is_read_only(runs, monkeypatch):
    run = write_run(runs, "a")
    assert run.notes == EMPTY
    jobs.annotate(run, text="looks <b>good</b>", tags=["thesis"])
    jobs.annotate(run, starred=True, name="  first <i>try</i> ")
    assert run.notes == EMPTY | {
        "text": "looks <b>good</b>",
        "tags": ["thesis"],
        "starred": True,
        "name": "first <i>try</i>",
    }
    wrong = [{"owner": "me"}, {"tags": "thesis"}, {"tags": [""]}, {"tags": ["x"] * 21}, {"text": "x" * 20_001}]
    wrong += [{"name": name} for name in ("x" * (NAME + 1), "two\nlines", "\u202eturned", "half \ud800", 3)] + [
        {"text": "\ud800"}
    ]
    for fields in wrong:
        with pytest.raises(LabError):
            jobs.annotate(run, **fields)
    assert run.notes["name"] == "first <i>try</i>" and run.notes["text"] == "looks <b>good</b>"
    atomic_io.write_json(run.dir / "notes.json", {"tags": 3, "starred": True})
    assert run.notes["tags"] == [] and run.notes["starred"]
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    with pytest.raises(LabError, match="read-only"):
        jobs.annotate(run, text="no")


def test_a_run_is_called_by_its_name_else_by_what_was_written_else_by_what_it_is(tmp_path):
    chosen, cell = (
        create_run(configuration(), tmp_path, "baseline"),
        create_run(configuration(), tmp_path, "l2r-builtin-s0-3fae12bc"),
    )
    made = create_run(configuration("ewc", 7), tmp_path)
    update_info(made, created="2026-11-28T12:00:00.000+00:00")
    assert chosen.title == "baseline" and cell.title.startswith("l2r, builtin, seed 0, ")
    assert made.title.startswith("ewc, builtin, seed 7, 28 Nov ")
    named = create_run(configuration(), tmp_path, name="漢字 <b>")
    assert named.title == "漢字 <b>" == Run(named.dir).title and Run.open("漢字 <b>", tmp_path) == named
    (made.dir / "config.yaml").write_text("{")
    assert Run(made.dir).title == made.id
    with pytest.raises(LabError, match="at most"):
        create_run(configuration(), tmp_path, "never", name="x" * 99)
    assert not (tmp_path / "never").exists()


def test_a_name_finds_its_run_and_changes_no_other_file(runs):
    def digests() -> dict[str, str]:
        files = [path for path in first.dir.rglob("*") if path.is_file() and path.name != "notes.json"]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    first, second = write_run(runs, "a"), write_run(runs, "b")
    before, result = digests(), json.dumps(first.result())
    jobs.annotate(first, name="the best")
    assert digests() == before and json.dumps(Run(first.dir).result()) == result
    assert Run.open("the best", runs) == first and Run.open("a", runs) == first
    jobs.annotate(second, name="the best")
    with pytest.raises(LabError, match=r"2 runs are called 'the best'.*a, b"):
        Run.open("the best", runs)
    jobs.annotate(second, name="a")
    assert Run.open("a", runs) == first  # an id comes before a name
    with pytest.raises(LabError, match="unknown run 'the worst'"):
        Run.open("the worst", runs)
