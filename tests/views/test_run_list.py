"""Listings of runs."""

import pytest
from support.run_folders import write_run

import lab
from lab.core.errors import LabError


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, "one")
    write_run(tmp_path, "two", "sequential", seed=1, status="stopped")
    (write_run(tmp_path, "three").dir / "config.yaml").write_text("[")
    return tmp_path


def test_runs_are_listed_filtered_and_found(folder):
    runs = lab.runs(folder)
    assert [run.id for run in runs] == ["one", "two", "three"] and len(runs) == 3 and runs["two"] == runs[1]
    assert [run.id for run in lab.runs(folder, status=["stopped", "damaged"])] == ["two", "three"]
    assert [run.id for run in lab.runs(folder, recipe="l2r", stream="builtin", seed=0)] == ["one"]
    assert runs[-1:][0].id == "three" and len(lab.runs(folder, seed=7)) == 0 and len(lab.runs(folder / "none")) == 0
    assert runs.table()["status"].tolist() == ["finished", "stopped", "damaged"]
    assert repr(runs).startswith("<3 runs>\n") and repr(lab.runs(folder, seed=7)) == "<0 runs>"
    assert "0.903" in repr(runs) and runs._repr_html_().count("<tr>") == 4


def test_wrong_words_are_refused_with_the_nearest(folder):
    with pytest.raises(LabError, match="unknown status 'finish': did you mean 'finished'"):
        lab.runs(folder, status="finish")
    with pytest.raises(LabError, match="unknown run 'on': did you mean 'one'"):
        lab.runs(folder)["on"]
