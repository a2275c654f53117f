"""What a run gives to people: its matrix as floats, tidy tables, and what a notebook shows."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from support.run_folders import KEEPS, LAYERS, TASKS, write_run, write_transfer

from lab.core.errors import LabError
from lab.run_folder.run import Run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path, "one")


def test_the_matrix_is_of_floats_and_the_json_is_as_it_was(run):
    expected = np.array(KEEPS, dtype=float)
    assert run.matrix.dtype == float and np.array_equal(run.matrix, expected, equal_nan=True)
    assert np.isnan(run.matrix[0, 1]) and run.matrix.mean(where=~np.isnan(run.matrix)) == pytest.approx(np.nanmean(expected))
    assert json.loads(json.dumps(run.result(), allow_nan=False))["matrix"] == KEEPS
    assert run.matrix.tasks == tuple(TASKS) and run.matrix[0].tasks == () and (run.matrix + 1).tasks == ()
    lines = repr(run.matrix).splitlines()
    assert lines[0].split() == TASKS and lines[1].split() == ["after", "animals", "0.900", "-", "-"]
    assert repr(run.matrix[0]) == "array([0.9, nan, nan])" and run.matrix[0]._repr_html_() is None


def test_scores_are_those_of_the_matrix(run):
    table = run.scores()
    assert [*table] == ["after", "after_name", "task", "score"] and table["score"].dtype == float
    learned = table[table["after"] >= 0].pivot(index="after", columns="task", values="score")[TASKS]
    assert np.array_equal(learned, run.matrix, equal_nan=True)
    assert table[table["after"] == -1]["score"].tolist() == [0.1] * 3
    assert set(table[table["after"] == 1]["after_name"]) == {"weather"}


def test_scores_of_texts_have_a_column_for_each_measure(tmp_path):
    table = write_run(tmp_path, "texts", measures={"rouge_l": [[0.5, None, None], [0.6, 0.7, None], [0.1, 0.2, 0.3]]}).scores()
    assert table["rouge_l"].isna().sum() == 3 and table["rouge_l"].dropna().tolist() == [0.5, 0.6, 0.7, 0.1, 0.2, 0.3]


def test_transfer_runs_have_shots_and_no_matrix(tmp_path):
    run = write_transfer(tmp_path, "moved")
    assert run.matrix.shape == (0, 3) and "animals" not in run._repr_html_()
    assert run.scores().to_dict("list") == {
        "part": ["trained"] * 2 + ["held out"] * 3,
        "task": ["animals", "weather", *["cooking"] * 3],
        "shots": [None, None, 0, 8, 32],
        "score": [0.9, 0.8, 0.5, 0.6, 0.7],
    }
    assert len(run.predictions()) == 4, "the last that were kept"


def test_the_routing_table_is_the_recorded_routing(run):
    table, routing = run.routing_table(), run.routing()
    assert [*table] == ["after", "task", "layer", "routing_head", "expert", "weight"] and set(table["after"]) == {2}
    for t, task in enumerate(TASKS):
        weights = table[table["task"] == task]["weight"].to_numpy().reshape(len(LAYERS), 4, 3)
        assert np.array_equal(weights, routing.mean(t))
    row = table.iloc[5]
    mean = routing.mean(0)[LAYERS.index(row["layer"]), row["routing_head"], routing.experts.index(row["expert"])]
    assert row["weight"] == mean
    every = run.routing_table(run.recorded())
    assert every.groupby("after")["task"].nunique().tolist() == [1, 2, 3]
    assert every[every["after"] == 1].reset_index(drop=True).equals(run.routing_table(1))


@pytest.mark.parametrize("what", ["routing", "routing_table", "predictions"])
def test_a_moment_that_was_not_recorded_is_refused_with_those_that_were(run, what):
    with pytest.raises(LabError, match=r"recorded after task 7; recorded after: \[0, 1, 2\]"):
        getattr(run, what)(7)
    with pytest.raises(LabError, match="recorded; recorded after: nothing"):
        getattr(write_run(run.dir.parent, "bare", matrix=[], routed=False), what)()


class Page(HTMLParser):
    """The tags and the text of HTML; an attribute or tag that could run something fails."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = set[str](), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"style"}

    def handle_data(self, data):
        self.text += data


def test_what_a_notebook_shows_is_escaped_and_small(tmp_path):
    odd = "<script>alert(1)</script>"
    run = write_run(tmp_path, "odd", tasks=[odd, "b & c", '"quoted"'])
    page = Page(run._repr_html_())
    assert page.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td"} and odd in page.text and "0.903" in page.text
    assert len(run._repr_html_()) < 10_000 and "rgba" in run._repr_html_() and "color:#" not in run._repr_html_()
    (run.dir / "matrix.json").write_text("{")
    assert Page(Run(run.dir)._repr_html_()).text.startswith("Run 'odd' damaged")
