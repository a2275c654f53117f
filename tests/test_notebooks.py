"""Every notebook runs top to bottom in a fresh kernel; the claims in its text are assertions in its cells."""

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from support.pages import heatmap, open_page

from lab import views
from lab.core.registry import PLUGINS
from lab.run_folder.run import Run

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "runs"))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=540, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(figures) >= 5
    assert not [output for output in outputs if output.get("name") == "stderr"], "warnings or progress in the output"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_small_and_holds_no_outputs(path: Path):
    assert path.stat().st_size < 100_000
    assert not [cell for cell in nbformat.read(path, as_version=4).cells if cell.get("outputs")]


ROUTER = '''
import torch
import lab
from lab.routers.base import Axes, Decision

SHARE = 0.25


@lab.register
class Mine(lab.Router):
    """A fixed share of the weight on the first expert, the rest on the newest."""

    name = "mine"
    axes = Axes("model", "all", "soft")

    def forward(self, request):
        weights = torch.zeros(1, 1, self.heads, self.experts, device=request.mask.device)
        weights[..., 0] += SHARE
        weights[..., -1] += 1 - SHARE
        return Decision(weights)
'''
RUN = """
import threading, time
from pathlib import Path

def ask_to_stop(folder):
    while not (folder / "events.jsonl").is_file():
        time.sleep(0.001)
    (folder / "stop").touch()

threading.Thread(target=ask_to_stop, args=(Path("runs/r"),), daemon=True).start()
try:
    lab.run("oracle", {"router": "mine", "stream.max_train": 16, "stream.max_test": 8, "train.epochs": 1}, backbone="tiny",
            stream="builtin", runs="runs", id="r", progress=False)
except Exception as stopped:
    print(stopped)
"""


@pytest.mark.slow
def test_a_router_from_a_cell_is_run_seen_on_the_page_and_gone_on_with_in_a_fresh_process(runs, tmp_path):
    """Resuming names the source that the run keeps, and goes on once somebody names its folder."""
    cells = [nbformat.v4.new_code_cell(text) for text in (ROUTER, RUN)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert "lab resume r" in notebook.cells[1].outputs[0]["text"]
    run = Run.open("r", runs)
    assert run.status == "stopped" and 0 < len(run.matrix) < len(run.tasks)
    app = open_page("routing", rt_colour="share, 0 to 1")
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run), rtol=1e-6)

    def resume(plugins: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "lab", "resume", "r", "--runs", str(runs)]
        return subprocess.run(words, capture_output=True, text=True, env=os.environ | {PLUGINS: plugins})

    refused = resume("")
    assert refused.returncode == 2 and "needs router 'mine' (__main__.Mine)" in refused.stderr
    assert resume(str(run.dir / "plugins")).returncode == 0
    run = Run.open("r", runs)
    assert run.status == "finished" and run.changes == [] and len(run.matrix) == len(run.tasks)
    assert views.routing_by_task(run).iloc[-1].tolist() == pytest.approx([0.25, *[0.0] * (len(run.tasks) - 2), 0.75])
