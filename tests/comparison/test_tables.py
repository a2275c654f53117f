"""Comparisons, trade-offs and matrices of blame, against hand-worked cases; formats that survive odd names."""

import csv
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.decomposition import WENT
from support.run_folders import FORGETS, KEEPS, TASKS, write_run

from lab import views
from lab.comparison import tables
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.metrics.base import MatrixScores, evaluate
from lab.run_folder.run import Run
from lab.run_folder.writer import update_info

ODD = "a_b|c & 50% #1 $x^2~{y}\\"


def costing(runs, id: str, bytes: int, accuracy: float, recipe: str | None = None, task_id: bool = False):
    """A run of two tasks with one cost that matters."""
    run = write_run(runs, id, recipe or id, [[accuracy, None], [accuracy, accuracy]], TASKS[:2], routed=False)
    update_info(run, cost=run.info["cost"] | {"stored_bytes": bytes}, uses=run.info["uses"] | {"task_id": task_id})
    return run


# comparison -------------------------------------------------------------------------------------------------------------------


def test_comparison_has_scores_and_costs_apart_and_notes(runs):
    made = [write_run(runs, "a", seed=0), write_run(runs, "b", seed=1), write_run(runs, "s", "sequential", FORGETS, routed=False)]
    table, notes = tables.comparison(made)
    assert list(table.index) == ["l2r", "sequential"] and table["n"].tolist() == ["2", "1"]
    assert table.at["sequential", "Average accuracy"] == "0.627" and table.at["sequential", "Own-expert share"] == "–"
    costs = {
        "Trainable parameters",
        "Stored parameters",
        "Stored bytes",
        "Adapter bytes",
        "Memory bytes",
        "Statistics bytes",
        "Stored examples",
        "Generated examples",
        "Uses task identity",
        "Training seconds",
        "Evaluation seconds",
        "Seconds saved by reuse",
        "Peak memory bytes",
    }
    assert costs <= set(table.columns)
    assert table.at["sequential", "Memory bytes"] == "1,024" and table.at["sequential", "Peak memory bytes"] == "1,000,000"
    assert table.at["sequential", "Seconds saved by reuse"] == "4.5" and "reused" not in str(tables.COSTS)
    assert any("may be chance: sequential." in note and "--seed 1" in note for note in notes)
    assert all("may be chance: sequential." in write(made) for write in (tables.latex, tables.markdown))
    assert not any("may be chance" in note for note in tables.comparison(made[:2]).notes)
    assert "Forward transfer" not in table.columns
    assert "Forward transfer: needs single-task scores" in notes, "missing everywhere: no column, no names"
    assert next(note for note in notes if note.startswith("Own-expert share")).endswith("(sequential)")


def test_an_old_run_says_which_costs_it_did_not_record(runs):
    run = write_run(runs, "a")
    update_info(run, cost={"trainable_parameters": 5, "stored_bytes": 20})
    _, notes = tables.comparison([run])
    assert "Stored parameters: not recorded by the version of this run" in notes
    part = write_run(runs, "b", matrix=KEEPS[:2], status="stopped")
    assert "Stored parameters: measured when the run is finished" in tables.comparison([part]).notes


# formats ----------------------------------------------------------------------------------------------------------------------


def odd(runs):
    run = write_run(runs, "odd", ODD)
    return [run, write_run(runs, "s", "sequential", FORGETS, routed=False)]


def test_csv_holds_unrounded_numbers_and_reasons(runs):
    made = odd(runs)
    rows = list(csv.DictReader(io.StringIO(tables.csv(made))))
    cells = {(row["label"], row["measure"]): row for row in rows}
    assert float(cells[ODD, "average_accuracy"]["value"]) == made[0].result()["average_accuracy"]
    missing = cells["sequential", "forward_transfer"]
    assert missing["value"] == "" and missing["why"] == "needs single-task scores"
    assert len(rows) == 2 * len(views.measures())


def unescaped(line: str) -> list[str]:
    """Cells of a line of a GitHub table: cut at bars that are not escaped, escapes undone."""
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def test_markdown_shows_names_as_they_are(runs):
    head, rule, first, second, *rest = tables.markdown(odd(runs)).splitlines()
    assert len(unescaped(head)) == rule.count("---") == first.replace("\\\\", "").replace("\\|", "").count("|") - 1
    assert r"| a\_b\|c \& 50% \#1 \$x^2\~\{y\}\\ |" in first
    assert unescaped(second)[0] == "sequential" and "sequential" in head + second
    assert dict(zip(unescaped(head), unescaped(second), strict=True))["Average accuracy"] == "0.627"
    assert rest[0] == "" and "Forward transfer: needs single-task scores" in rest


def test_latex_shows_names_as_they_are(runs):
    text = tables.latex(odd(runs))
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert lines[0].startswith(r"\begin{tabular}{lrr") and lines[-1] == r"\end{tabular}"
    row = next(line for line in lines if line.startswith("a"))
    assert row.startswith(r"a\_b|c \& 50\% \#1 \$x\textasciicircum 2\textasciitilde \{y\}\textbackslash ") and row.endswith(r"\\")
    cells = re.split(r"(?<!\\)&", row)
    assert len(cells) == len(re.split(r"(?<!\\)&", lines[2])) == lines[0].count("r}") + lines[0].count("r") - 2
    assert " -- &" in text and "–" not in text and "% Forward transfer: needs single-task scores" in text


def test_spread_in_latex(runs):
    made = [write_run(runs, f"s{seed}", seed=seed) for seed in range(2)]
    assert "±" not in tables.latex(made)


# trade-offs -------------------------------------------------------------------------------------------------------------------


def test_pareto_by_hand(runs):
    made = [
        costing(runs, "cheap", 10, 0.5),
        costing(runs, "good", 30, 0.9),
        costing(runs, "poor", 30, 0.4),
        costing(runs, "same", 10, 0.5, "twin"),
        costing(runs, "late", 20, 0.45),
        costing(runs, "told", 5, 0.99, task_id=True),
        costing(runs, "worse", 6, 0.98, task_id=True),
    ]
    table = tables.pareto(made).set_index("label")
    assert table["dominated_by"].to_dict() == {
        "cheap": "",
        "good": "",
        "poor": "cheap",
        "twin": "",
        "late": "cheap",
        "told": "",
        "worse": "told",
    }
    assert table.at["good", "cost"] == 30 and table.at["good", "score"] == pytest.approx(0.9)


def test_pareto_judges_nobody_by_another_backbone(runs):
    made = [costing(runs, "cheap", 10, 0.9), costing(runs, "poor", 30, 0.4)]
    assert tables.pareto(made)["dominated_by"].tolist() == ["", "cheap"]
    atomic_io.write_yaml(made[1].dir / "config.yaml", made[1].config | {"backbone": {"name": "minilm"}})
    assert tables.pareto([made[0], Run(made[1].dir)])["dominated_by"].tolist() == ["", ""]


def test_pareto_knows_measures_of_which_less_is_better(runs):
    made = [write_run(runs, "a", "keeps", KEEPS), write_run(runs, "b", "forgets", FORGETS, seed=0)]
    table = tables.pareto(made, "cost.train_s", "forgetting").set_index("label")
    assert table["dominated_by"].to_dict() == {"keeps": "", "forgets": "keeps"}


def test_unknown_costs_take_no_part(runs):
    free, unknown = costing(runs, "free", 0, 0.1), costing(runs, "unknown", 0, 0.9)
    update_info(unknown, cost={})
    table = tables.pareto([free, unknown]).set_index("label")
    assert (table["dominated_by"] == "").all() and np.isnan(table.at["unknown", "cost"])
    assert table.at["unknown", "why"] and not table.at["free", "why"]


def test_pareto_of_an_unknown_measure(runs):
    with pytest.raises(LabError, match=re.escape("there is no measure 'cost.bytes': use one of average_accuracy")):
        tables.pareto([write_run(runs, "a")], "cost.bytes")


points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=7)


@given(points)
def test_dominated_groups_are_those_with_a_better_one(given_points):
    costs = np.array([[cost, -score] for cost, score, _ in given_points], dtype=float)
    told = np.array([task_id for *_, task_id in given_points])
    names = [str(i) for i in range(len(costs))]
    for i, (cost, score, task_id) in enumerate(given_points):
        others = [(str(k), c, s) for k, (c, s, other_id) in enumerate(given_points) if task_id or not other_id]
        expected = [name for name, c, s in others if c <= cost and s >= score and (c, s) != (cost, score)]
        found = tables._dominating(costs, ~told | told[i], i, names)
        assert found in expected if expected else found == ""


# one run ----------------------------------------------------------------------------------------------------------------------


def test_interference_by_hand(runs):
    table = tables.interference_matrix(write_run(runs, "a", "sequential", FORGETS))
    assert table.loc["weather", "animals"] == pytest.approx(0.91 - 0.55)
    assert table.loc["cooking"].tolist()[:2] == pytest.approx([0.55 - 0.32, 0.93 - 0.61])
    assert np.isnan(table.to_numpy()[np.triu_indices(3)]).all()
    assert table.sum().tolist()[:2] == pytest.approx([0.91 - 0.32, 0.93 - 0.61])


def test_interference_of_a_run_in_progress(runs):
    table = tables.interference_matrix(write_run(runs, "a", matrix=KEEPS[:2], status="stopped"))
    assert table.at["weather", "animals"] == pytest.approx(0.02) and np.isnan(table.loc["cooking"]).all()
    assert np.isnan(tables.interference_matrix(write_run(runs, "b", matrix=[], status="running", events=False))).all(axis=None)


def test_confusion_by_hand(runs):
    run = write_run(runs, "a")
    arrays, header = atomic_io.read_arrays(run.dir / "routing" / "after_2.safetensors")
    top = np.zeros_like(arrays["1/top_count"])  # (8 layers, 4 heads, 3 experts), 10 examples
    top[:, :, 1], top[0, :, 0], top[0, :, 1] = 10, 4, 6
    atomic_io.write_arrays(run.dir / "routing" / "after_2.safetensors", arrays | {"1/top_count": top}, header)
    table = tables.routing_confusion(run)
    assert table.loc["weather"].tolist() == pytest.approx([0.4 / 8, (7 + 0.6) / 8, 0])
    assert table.sum(axis=1).to_numpy() == pytest.approx(1)
    assert tables.routing_confusion(run, 0).shape == (1, 1)


def test_decomposition_is_read(runs):
    run = write_run(runs, "a")
    with pytest.raises(LabError, match="not measured yet: lab show a --decompose"):
        tables.decomposition(run)
    atomic_io.write_json(run.dir / "decomposition.json", WENT)
    table = tables.decomposition(run)
    assert list(table.index) == ["animals", "weather", "mean"] and np.isnan(table["router"]).all()
    assert table[list(tables.TERMS)].sum(axis=1).to_numpy() == pytest.approx(table["loss"].to_numpy())
    assert table.attrs["why"] == WENT["why"]
    atomic_io.write_json(run.dir / "decomposition.json", {"tasks": [1], "mean": {}})
    with pytest.raises(LabError, match=r"is damaged: decomposition\.json is no decomposition"):
        tables.decomposition(run)


def test_column_sums_of_interference_are_what_was_lost(runs):
    run = write_run(runs, "a", "sequential", FORGETS)
    lost = tables.interference_matrix(run).sum()
    assert lost.iloc[:-1].mean() == pytest.approx(-evaluate(MatrixScores(FORGETS))[0]["backward_transfer"])
