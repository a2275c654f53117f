"""The commands of docs/runs.md, one after the other."""

import re
import shlex
from pathlib import Path

from support.run_folders import write_run
from typer.testing import CliRunner

from lab.cli.main import app
from lab.run_folder.run import all_runs
from lab.store import doctor


def test_the_examples_of_the_page_on_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(doctor, "_packages", lambda: iter(()))
    write_run(tmp_path / "runs", "first")
    lines = re.findall(r"^\$ lab (.*)$", (Path(__file__).parents[2] / "docs" / "runs.md").read_text(), re.MULTILINE)
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line))
        assert done.exit_code == 0, (line, done.output)
    assert len(lines) == 10 and [run.id for run in all_runs(tmp_path / "runs")] == ["second", "third"]
