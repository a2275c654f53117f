"""The examples of docs/plugins.md and CONTRIBUTING: each is a file that works as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from lab.contracts.plugin_files import outcomes
from lab.core.registry import PLUGINS
from lab.run_folder.run import Run

ROOT = Path(__file__).parents[1]
KINDS = {"routers", "methods", "experts", "streams", "metrics", "protocols", "recipes", "pages"}


def examples() -> dict[str, str]:
    """By path: the code blocks under a line that is a path."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("docs/plugins.md", ".github/CONTRIBUTING.md"))
    return dict(re.findall(r"^`(\w+/\w+\.(?:py|yaml))`\n\n```(?:python|yaml)\n(.*?)```$", text, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def plugins(tmp_path_factory) -> Path:
    """A folder that holds all examples."""
    folder = tmp_path_factory.mktemp("plugins")
    for path, content in examples().items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    return folder


def command(plugins: Path, runs: Path, *words: str) -> str:
    """What a command of the lab prints, with these plug-ins."""
    environment = os.environ | {"LAB_PLUGINS": str(plugins), "PYTHONPATH": str(ROOT), "LAB_RUNS": str(runs)}
    process = subprocess.run([sys.executable, "-m", "lab", *words], capture_output=True, text=True, env=environment, cwd=plugins)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_there_is_an_example_of_every_kind():
    assert {path.partition("/")[0] for path in examples()} == KINDS


@pytest.mark.long
def test_the_examples_work_together(plugins, tmp_path):
    result = json.loads(command(plugins, tmp_path, "run", "mine", "--backbone", "tiny", "-o", "stream.max_train=16", "--json"))
    assert result["status"] == "finished" and result["tasks"] == ["size", "parity"]
    assert result["worst"] == pytest.approx(min(result["matrix"][-1]))
    assert result["routing"]["own_expert_share"] == pytest.approx(0.5)  # the newest expert is the own one of one task in two
    run = Run.open(result["run"], tmp_path)
    predictions, weights = run.predictions(), run.routing_table().groupby("expert").weight.mean()
    surer = (predictions.probability - predictions.correct).groupby(predictions.task).mean()
    assert result["overconfidence"] == pytest.approx(surer.mean(), abs=1e-6)
    assert result["routing"]["busiest_expert"] == pytest.approx(weights.max() / weights.sum())


def test_lab_check_plugin_finds_nothing_wrong_with_them(plugins, monkeypatch, nothing_registered):
    monkeypatch.setenv(PLUGINS, str(plugins))
    tried = [*outcomes(str(plugins))]
    assert [outcome for outcome in tried if outcome.problem] == []
    assert {outcome.kind for outcome in tried} == {kind.removesuffix("s") for kind in KINDS - {"pages"}}


def test_the_page_shows_the_runs(plugins, monkeypatch):
    monkeypatch.setenv("LAB_RUNS", str(ROOT / "lab" / "examples"))
    page = AppTest.from_file(plugins / "pages" / "names.py").run()
    assert not page.exception and "sequential" in " ".join(markdown.value for markdown in page.markdown)
