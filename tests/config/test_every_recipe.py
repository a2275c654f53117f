"""Every shipped recipe through the command line on the built-in stream, small: run by hand with -m slow."""

import json

import pytest
from typer.testing import CliRunner

from lab.cli.main import app
from lab.config.resolve import configure, recipe_names
from lab.run_folder.run import Run

pytestmark = pytest.mark.slow
SMALL = ("--backbone", "tiny", "-o", "stream.max_train=32", "-o", "stream.max_validation=10", "-o", "stream.max_test=20")


@pytest.mark.parametrize("recipe", recipe_names())
def test_recipe(recipe: str, tmp_path):
    done = CliRunner().invoke(app, ["run", recipe, *SMALL, "--runs", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["recipe"], result["status"], result["backbone"]) == (recipe, "finished", "tiny")
    held = configure(recipe).protocol.name == "transfer"
    scores = result["held_out"] if held else result["matrix"]
    assert len(scores) == 2 if held else [sum(score is not None for score in row) for row in scores] == [1, 2, 3, 4, 5, 6]
    assert result["cost"]["train_s"] > 0 and Run(tmp_path / result["run"]).status == "finished"
