"""Cards of charts: their code draws the same figure, their command prints the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support.pages import MAIN, open_page
from support.run_folders import write_run

import lab
from lab import figures, views
from lab.pages import code_snippets, recorded_examples


def test_code_of_a_chart_draws_that_chart(runs, recorded, monkeypatch):
    """What the popover says is run as it stands: same figure, same numbers; the file holds them too."""
    monkeypatch.setattr(lab, "__path__", [str(recorded.parent)])
    monkeypatch.setattr(recorded_examples, "EXAMPLES", recorded)
    examples = "lab.Run.open('builtin-l2r', lab.__path__[0] + '/examples')"
    pairs = (write_run(runs, "a"), f"lab.Run.open('a', '{runs}')"), (lab.Run.open("builtin-l2r", recorded), examples)
    for made, open_it in pairs:
        code = code_snippets.python_of(figures.routing_by_task, views.routing_by_task, (made, 1), {"title": "<x>"})
        assert open_it in code and code.endswith("lab.views.routing_by_task(run1, 1)")
        *before, drawing, numbers = code.splitlines()
        names: dict = {}
        exec("\n".join(before), names)
        assert eval(drawing, names) == figures.routing_by_task(made, 1, title="<x>")
        assert eval(numbers, names).equals(views.routing_by_task(made, 1))
    both = [made, lab.Run.open("a")]
    assert "lab.figures.average_curves([run1, run2])" in code_snippets.python_of(figures.average_curves, None, (both,), {})
    assert code_snippets.command_of(both[1:]) == f"lab show a --json --runs {runs}"
    monkeypatch.delenv("LAB_RUNS")
    monkeypatch.chdir(runs.parent)
    assert (
        code_snippets.command_of(both[1:]) == "lab show a --json"
        and code_snippets.open_expression(both[1]) == "lab.Run.open('a')"
    )


def test_the_command_of_a_chart_works_in_a_shell_of_its_own(runs, tmp_path, monkeypatch):
    """Own runs, recorded examples, and both beside each other; typed elsewhere, without the settings of the server."""
    monkeypatch.delenv("LAB_EXAMPLES")
    (folder := tmp_path / "other runs").mkdir()
    monkeypatch.setenv("LAB_RUNS", str(folder))
    mine, example, other = write_run(folder, "a"), *recorded_examples.examples()[:2]
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(MAIN.parents[2])}
    for shown in ([mine], [mine, example, mine], [example, other]):
        command = code_snippets.command_of(shown)
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=paths, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr[-500:])
        found = json.loads(done.stdout)
        found = found if isinstance(found, list) else [found]
        assert [one["run"] for one in found] == [run.id for run in dict.fromkeys(shown)]
        assert [one["average_accuracy"] for one in found] == [run.metrics()["average_accuracy"] for run in dict.fromkeys(shown)]


def test_a_chart_card_offers_code_and_numbers(runs):
    run = write_run(runs, "a")
    app = open_page("routing")
    assert any("lab.figures.routing_by_task(run1, 2)" in code.value for code in app.code)
    assert f"lab show a --json --runs {runs}" in [code.value for code in app.code]
    button = next(button for button in app.get("download_button") if button.proto.label == "Numbers as CSV")
    assert button.proto.id and run.id == "a"
