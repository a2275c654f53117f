"""Compare: every number on the page is one of the runs; differences, sweeps, filters and warnings."""

import json

import numpy as np
import pytest
from scipy import stats
from support.browser import VIEWS
from support.decomposition import WENT
from support.pages import chart, heatmap, open_page, texts
from support.run_folders import FORGETS, KEEPS, TASKS, configuration, write_run, write_transfer
from typer.testing import CliRunner

import lab
from lab import views
from lab.cli import main
from lab.comparison import replicates, tables
from lab.core import atomic_io
from lab.jobs import jobs
from lab.pages import recorded_examples
from lab.run_folder.writer import update_info


def test_transfer_runs_stand_in_a_table_of_their_own(runs):
    write_transfer(runs, "moved"), write_run(runs, "stream")
    app = open_page("compare", runs=["moved", "stream"], cmp_view="Numbers")
    table, other = app.dataframe[0].value, app.dataframe[1].value
    assert table.columns.tolist() == ["mhr (n = 1)"]
    assert table.loc["32 shots"].tolist() == ["0.700"] and table.loc["Gradient alignment"].tolist() == ["0.200"]
    assert "Forgetting" in other.index and "32 shots" not in other.index
    for seed, by in enumerate((0.1, 0.12, 0.17)):
        write_transfer(runs, f"own{seed}", seed=seed)
        lower = write_transfer(runs, f"low{seed}", "shared", seed)
        held = {"8": 0.6, "32": 0.7 - by}
        atomic_io.write_json(lower.dir / "matrix.json", lower.recorded_scores | {"held_out": {"cooking": held}})
    app = open_page("compare", runs=[f"{name}{seed}" for name in ("own", "low") for seed in range(3)])
    assert not app.exception and "may be chance" not in texts(app)
    low, high = stats.ttest_1samp([0.1, 0.12, 0.17], 0).confidence_interval()
    assert app.dataframe[1].value.loc["mhr", "average.32"] == f"+0.130 [{low:+.3f}, {high:+.3f}] p 0.25"
    app.selectbox(key="transfer_cmp_measure").set_value("average.32").run()
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert drawn["data"][0]["name"] == "mhr" and drawn["layout"]["xaxis"]["title"]["text"] == "32 shots, minus shared"
    assert app.get("download_button")[0].proto.label == "Numbers as CSV" and not app.exception and not app.warning
    atomic_io.write_yaml(runs / "low0" / "config.yaml", lab.Run.open("low0").config | {"backbone": {"name": "minilm"}})
    app.run()
    assert "These runs differ in their backbones: tiny, minilm" in texts(app)
    assert any("lab compare own0 own1 own2 low0 low1 low2 --json" in one.value for one in app.code)
    app = open_page("jobs", job="moved")
    scores = next(table.value for table in app.dataframe if "cooking" in table.value.index)
    assert scores.loc["cooking"].tolist() == [0.5, 0.6, 0.7]
    assert "cooking, 32 shots 0.70" in texts(app)


def test_compare_shows_the_numbers_of_the_runs(runs):
    """Every number on the screen is one that `lab compare --json` prints."""
    made = [write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS, routed=False)]
    printed = json.loads(CliRunner().invoke(main.app, ["compare", "a", "b", "--json", "--runs", str(runs)]).stdout)
    app = open_page("compare", cmp_view="Numbers")
    table = app.dataframe[0].value
    assert list(table.columns) == ["sequential (n = 1)", "l2r (n = 1)"]
    for result, column in zip(printed, ("l2r (n = 1)", "sequential (n = 1)"), strict=True):
        for measure in views.measures():
            known = views.pick(result, measure.path)
            shown = table.loc[measure.title, column]
            if known is None:
                assert shown == f"– ({views.reason(result, measure.path)})"
            elif measure.path == "uses.task_id":
                assert shown == ("yes" if known else "no")
            else:
                assert float(shown.replace(",", "")) == pytest.approx(known, abs=5e-4 if measure.score else 0.5)
    assert table.loc["Forward transfer", "l2r (n = 1)"] == "– (needs single-task scores)"
    assert app.dataframe[1].value.loc["l2r", "average_accuracy"] == "+0.277 (one pair: no interval)"
    assert "may be chance: sequential; l2r" in texts(app)
    csv = next(button for button in app.get("download_button") if button.proto.label == "Numbers as CSV")
    assert csv.proto.url and open_page("compare", cmp_view="Settings").dataframe[0].value.index[0] == "recipe"
    np.testing.assert_allclose(heatmap(open_page("compare", cmp_view="Matrices"), 2), views.matrix_difference(*made), rtol=1e-5)


def test_compare_takes_differences_over_pairs_of_seeds(runs):
    """Means, intervals and claims against scipy; the mean matrix of two seeds; another baseline turns the signs."""
    lower, other = (
        [[[score and score - by for score in row] for row in KEEPS] for by in byes]
        for byes in ((0.1, 0.12, 0.17), (0.1, -0.05, 0.02))
    )
    for seed in range(3):
        write_run(runs, f"u{seed}", "uniform", other[seed], seed=seed, events=False, routed=False)
        write_run(runs, f"a{seed}", seed=seed, events=False, routed=False)
        write_run(runs, f"b{seed}", "replay", lower[seed], seed=seed, events=False, routed=False)
    app = open_page("compare", cmp_view="Numbers")
    assert {*app.multiselect(key="runs").value} == {f"{name}{seed}" for name in "abu" for seed in range(3)}
    app.multiselect(key="runs").set_value(["a0", "b0"]).run()
    app.button(key="cmp_repeat").click().run()
    assert len(app.multiselect(key="runs").value) == 6
    app.multiselect(key="runs").set_value([f"{name}{seed}" for name in "abu" for seed in range(3)]).run()
    app.selectbox(key="baseline").set_value("l2r").run()
    away = stats.ttest_1samp([-0.1, -0.12, -0.17], 0).confidence_interval()
    assert app.dataframe[1].value.loc["replay", "average_accuracy"] == f"-0.130 [{away.low:+.3f}, {away.high:+.3f}] p 0.25"
    assert app.dataframe[1].value.loc["uniform", "average_accuracy"].endswith("includes 0")
    drawn = {line["name"]: line for line in json.loads(app.get("plotly_chart")[0].proto.spec)["data"]}
    assert drawn["replay"]["opacity"] == 1 and drawn["uniform"]["opacity"] < 0.5
    mean = stats.t.interval(0.95, 2, np.mean([0.8033, 0.7833, 0.7333]), stats.sem([0.8033, 0.7833, 0.7333]))
    assert app.dataframe[0].value.loc["Average accuracy", "replay (n = 3)"] == f"0.773 ± {mean[1] - 0.77333:.3f}"
    app.selectbox(key="baseline").set_value("replay").run()
    assert app.dataframe[1].value.loc["l2r", "average_accuracy"].startswith("+0.130 [")
    app.segmented_control(key="cmp_view").set_value("Matrices").run()
    shown = [heatmap(app, number)[-1, 0] for number in range(3)]
    assert shown == pytest.approx([0.86, 0.73, 0.86 - 0.07 / 3])
    ranges = [chart["data"][0] for chart in (json.loads(c.proto.spec) for c in app.get("plotly_chart"))]
    assert {(one["zmin"], one["zmax"]) for one in ranges[:3]} == {(0, 1)}
    assert len(ranges) == 5 and len({(one["zmin"], one["zmax"]) for one in ranges[3:]}) == 1


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_compare_with_seeds_orders_and_what_cannot_be_compared(runs, monkeypatch, view):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    write_run(runs, "a"), write_run(runs, "b", seed=1), write_run(runs, "same"), write_run(runs, "live", status="running")
    write_run(runs, "turned", tasks=TASKS[::-1]), write_run(runs, "half", "replay", KEEPS[:2], status="stopped", routed=False)
    update_info(write_run(runs, "newer"), format=99)
    (write_run(runs, "bad").dir / "matrix.json").write_text("{")
    write_run(runs, "s", "sequential", FORGETS, routed=False)
    app = open_page("compare", cmp_view=view)
    app.multiselect(key="runs").set_value(["a", "b", "same", "live", "turned", "half", "s"]).run()
    assert not app.exception and not app.error
    shown = texts(app)
    for reason in (
        "'same' has the settings and the seed of 'a'",
        "'live' is running",
        "newer version (format 99",
        "matrix.json cannot be read",
        "half has learned 2 of 3 tasks",
    ):
        assert reason in shown, reason
    assert app.segmented_control(key="cmp_view").value == view
    if view == "What hurt what":
        app.segmented_control(key="cmp_hurt").set_value("Circle").run()
        drawn = [json.loads(one.proto.spec)["data"] for one in app.get("plotly_chart")]
        circles = [traces for traces in drawn if traces[-1].get("name") == "tasks"]
        arrows = [[trace["name"] for trace in traces[:-1]] for traces in circles]
        assert ["weather → animals", "cooking → animals", "cooking → weather"] in arrows
    if view == "Why forgotten":
        np.testing.assert_allclose(chart(app, "cmp_confusion_0"), tables.routing_confusion(lab.Run.open("a", runs)), rtol=1e-6)
    if view == "Order":
        table = app.dataframe[0].value.set_index(["label", "order"])
        assert table.loc[("l2r", "animals → weather → cooking"), "n"] == 2 and len(table) == 3


def test_paired_differences_name_whole_methods(runs):
    """Two learning rates of one recipe; the column grows with the longest label."""

    def column(*ids: str, baseline: str) -> dict:
        return json.loads(open_page("compare", runs=[*ids], baseline=baseline, cmp_view="Numbers").dataframe[1].proto.columns)[
            "label"
        ]

    write_run(runs, "a", events=False, routed=False)
    for rate in (0.002, 0.0005):
        run = write_run(runs, f"r{rate}", "sequential", events=False, routed=False)
        atomic_io.write_yaml(run.dir / "config.yaml", configuration("sequential", train={"lr": rate, "epochs": 2}))
    long, short = column("r0.002", "r0.0005", baseline="sequential, train.lr 0.0005"), column("a", "r0.002", baseline="l2r")
    assert (long["label"], short["label"]) == ("minus sequential, train.lr 0.0005", "minus l2r")
    assert long["width"] > short["width"]


def test_compare_shows_a_sweep_and_where_losses_went(runs, monkeypatch):
    for rate, score in ((1e-4, 0.5), (1e-3, 0.9), (1e-2, 0.7)):
        made = write_run(runs, f"r{score}", validation=[score, score, score], events=False)
        atomic_io.write_yaml(made.dir / "config.yaml", configuration(train={"lr": rate, "epochs": 2}))
    app = open_page("compare", cmp_view="Learning rates")
    assert len(app.multiselect(key="runs").value) == 3
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert drawn["layout"]["xaxis"]["type"] == "log" and drawn["layout"]["xaxis"]["ticktext"] == ["0.0001", "0.001", "0.01"]
    found = replicates.sweep([lab.Run.open(f"r{score}", runs) for score in (0.5, 0.9, 0.7)])
    assert found.set_index("value")["mean"].to_dict() == pytest.approx({1e-4: 0.5, 1e-3: 0.9, 1e-2: 0.7})
    assert found.loc[found["best"], "value"].tolist() == [1e-3]
    atomic_io.write_json(runs / "r0.9" / "decomposition.json", WENT)
    app.segmented_control(key="cmp_view").set_value("Why forgotten").run()
    assert "Not measured for 2 of 3 runs" in texts(app) and not app.exception
    assert "kept its weights" in texts(app) and not any("--decompose" in code.value for code in app.code)
    (runs / "r0.7" / "state" / "after_0").mkdir(parents=True)
    app.run()
    assert any("lab show r0.7 --decompose" in code.value for code in app.code)
    monkeypatch.setattr(lab, "decompose", lambda run, watch: atomic_io.write_json(run.dir / "decomposition.json", WENT))
    app.button(key="cmp_measure_why").click().run()
    assert "Not measured for 1 of 3 runs" in texts(app) and len(app.get("plotly_chart")) == 5 and not app.exception


def test_compare_begins_with_the_bounds_and_the_newest_methods_of_the_examples(runs, monkeypatch):
    monkeypatch.setenv("LAB_EXAMPLES", str(recorded_examples.EXAMPLES))
    app = open_page("compare")
    assert app.multiselect(key="runs").value == [f"~example-{name}" for name in ("sequential", "l2r", "replay", "oracle")]
    assert not app.warning and not app.exception


def test_runs_with_other_limits_of_examples_are_said_to_be_unequal(runs):
    for name, limits in (
        ("few", {"max_train": 16}),
        ("all", {"max_train": None}),
        ("later", {"max_train": None, "max_per_label": None}),
    ):
        run = write_run(runs, name, events=False, routed=False)
        atomic_io.write_yaml(run.dir / "config.yaml", run.config | {"stream": run.config["stream"] | limits})
    said = "These runs differ in their examples per task (stream.max_train 16, all), which changes their scores"
    assert said in texts(open_page("compare", runs=["few", "all"]))
    assert "examples per task" not in texts(open_page("compare", runs=["all", "later"]))


def test_compare_restores_the_runs_of_a_link_and_reads_recorded_ones(runs, recorded):
    write_run(runs, "a"), write_run(runs, "b", seed=1), write_run(runs, "c", seed=2)
    app = open_page("compare", cmp_view="Numbers")
    app.multiselect(key="runs").set_value(["a", "~builtin-sequential"]).run()
    assert not app.exception and list(app.dataframe[0].value.columns) == ["l2r (n = 1)", "sequential (n = 1)"]
    app.multiselect(key="runs").set_value(["a", "b", "c"]).run()
    assert list(app.dataframe[0].value.columns) == ["l2r (n = 3)"]
    app.multiselect(key="runs").set_value([]).run()
    assert "Choose at least one" in texts(app)


def test_compare_begins_with_runs_that_are_at_rest(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS)
    write_run(runs, "c", "replay", status="running")  # has learned all tasks, and is measured at this moment
    app = open_page("compare")
    update_info(write_run(runs, "d", "uniform"), replay={"run": "a"})
    app = open_page("compare")
    assert app.multiselect(key="runs").value == ["b", "a"] and "Left out" not in texts(app)


def test_compare_offers_only_runs_with_chosen_recipes_tags_and_stars(runs):
    """Any of one kind, all of several kinds; what is still offered stays chosen, and the link holds the choice."""
    for number, recipe in enumerate(("l2r", "sequential", "replay", "l2r")):
        jobs.annotate(
            write_run(runs, f"r{number}", recipe, seed=number, events=False, routed=False),
            tags=["paper"] if number < 2 else [],
            starred=number == 3,
        )
    app = open_page("compare")
    asked = app.multiselect(key="only")
    assert asked.options == ["recipe l2r", "recipe replay", "recipe sequential", "starred", "stream builtin", "tag paper"]
    app.multiselect(key="runs").set_value(["r0", "r1", "r2"]).run()
    for given, offered, left in (
        (["recipe l2r", "recipe sequential"], ["r3", "r1", "r0"], ["r0", "r1"]),
        (["recipe l2r", "recipe sequential", "tag paper"], ["r1", "r0"], ["r0", "r1"]),
        (["recipe l2r", "starred"], ["r3"], ["r3"]),
    ):
        app.multiselect(key="only").set_value(given).run()
        assert (app.multiselect(key="runs").options, app.multiselect(key="runs").value) == (offered, left) and not app.exception
    app.multiselect(key="only").set_value(["recipe replay", "starred"]).run()
    assert "No run matches the filter" in texts(app) and len(app.multiselect(key="runs").options) == 4 and not app.exception
    linked = open_page("compare", only=["tag paper"])
    assert linked.multiselect(key="only").value == ["tag paper"] and linked.multiselect(key="runs").options == ["r1", "r0"]


def test_compare_warns_of_unequal_runs(runs):
    write_run(runs, "a"), write_run(runs, "b", "sequential", [[0.5, None], [0.4, 0.6]], ["x", "y"], routed=False)
    app = open_page("compare", cmp_view="Numbers", runs=["a", "b"])
    assert "These runs learned different tasks" in texts(app)
    assert "no seed and order is common to both" in app.dataframe[1].value.loc["l2r", "forgetting"]
    app.segmented_control(key="cmp_view").set_value("Matrices").run()
    assert "different tasks" in texts(app) and not app.exception


def test_compare_begins_with_the_newest_runs_that_can_be_compared_between_their_bounds(runs):
    """Lower and upper bound, and the newest other methods with all their seeds; not the newer run of another stream."""
    write_run(runs, "u", "uniform"), write_run(runs, "o", "oracle"), write_run(runs, "s", "sequential", FORGETS, routed=False)
    write_run(runs, "a"), write_run(runs, "a1", seed=1), write_run(runs, "r", "replay", routed=False)
    write_run(runs, "other", tasks=["x", "y", "z"])
    few = write_run(runs, "few", "sequential", FORGETS, seed=5, routed=False)
    atomic_io.write_yaml(few.dir / "config.yaml", few.config | {"stream": few.config["stream"] | {"max_train": 40}})
    assert open_page("compare").multiselect(key="runs").value == ["s", "r", "a1", "a", "o"]


def test_the_first_view_of_compare_says_who_keeps_and_who_forgets_and_shows_one_method_alone(runs):
    made = [write_run(runs, "a"), write_run(runs, "s", "sequential", FORGETS, routed=False)]
    app = open_page("compare")
    average, lost = made[0].result()["average_accuracy"], made[1].result()["forgetting"]
    assert f"**l2r** keeps most: average accuracy {average:.2f}. **sequential** forgets most: {lost:.2f}" in texts(app)
    bars = lab.figures.scores_of_methods(made).data
    assert [*bars[0].x] == pytest.approx([average, made[1].result()["average_accuracy"]]) and bars[1].x[1] == pytest.approx(lost)
    worst = np.nanmax(made[1].matrix[:-1, :-1].astype(float), axis=0) - made[1].matrix[-1, :-1].astype(float)
    assert f"The task forgotten most is **{TASKS[worst.argmax()]}**, by sequential: {worst.max():.2f} lost" in texts(app)
    gap = made[0].result()["routing"]["oracle_gap"]
    assert gap is not None and f"average accuracy changes by: l2r {gap:+.2f}" in texts(app)
    lines = {line.name: line.y for line in lab.figures.average_curves(made, measure="forgetting").data if line.name}
    assert lines["sequential"][-1] == pytest.approx(lost) and len(lines) == 2
    assert not app.dataframe, "costs and all other measures stand behind a switch"
    app.toggle(key="cmp_all").set_value(True).run()
    assert list(app.dataframe[0].value.columns) == ["sequential (n = 1)", "l2r (n = 1)"]
    app.session_state["cmp_only"] = "l2r"
    app.run()
    curves = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
    assert [line["opacity"] == 1 for line in curves if line.get("name")] == [False, True]
    assert list(app.dataframe[0].value.columns) == ["l2r (n = 1)"]


def test_compare_queues_the_seeds_that_are_missing(runs, monkeypatch):
    queued = []
    monkeypatch.setattr("lab.jobs.jobs.enqueue", lambda config: queued.append((config["recipe"], config["seed"])))
    write_run(runs, "a"), write_run(runs, "a1", seed=1), write_run(runs, "s", "sequential", FORGETS, routed=False)
    app = open_page("compare")
    app.button(key="cmp_seeds").click().run()
    assert sorted(queued) == [("l2r", 2), ("l2r", 3), ("sequential", 1), ("sequential", 2), ("sequential", 3)]
    queued.clear()
    write_run(runs, "a2", matrix=[], seed=2, status="queued", routed=False), write_run(runs, "a3", seed=3, status="failed")
    app.multiselect(key="runs").set_value(["a"]).run()
    app.button(key="cmp_seeds").click().run()
    assert queued == [("l2r", 3)], "not the seed that is there, nor the one that waits; the one that failed"
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("compare")
    assert app.button(key="cmp_seeds").disabled and "Seeds cannot be added here: this lab is read-only" in texts(app)


def test_compare_says_whether_more_memory_helps_and_queues_what_would_tell(runs, monkeypatch):
    queued = []
    monkeypatch.setattr("lab.jobs.jobs.enqueue", lambda config: queued.append((config["recipe"], config["memory"]["per_task"])))
    for name, stored in (("a", 40), ("b", 20)):
        run = write_run(runs, name, "replay", KEEPS if stored == 40 else FORGETS, routed=False)
        atomic_io.write_yaml(run.dir / "config.yaml", run.config | {"memory": {"per_task": stored}})
    few, many = (lab.Run.open(name).result()["average_accuracy"] for name in "ba")
    app = open_page("compare", runs=["a"], cmp_view="Trade-offs")
    assert "this cannot be told yet" in texts(app)
    app.button(key="cmp_memory").click().run()
    assert queued == [("replay", 10), ("replay", 80)] and "2 runs wait in the queue" in texts(app)
    app.multiselect(key="runs").set_value(["a", "b"]).run()
    assert f"average accuracy {few:.2f} with 20, {many:.2f} with 40 stored examples per task" in texts(app)
    other = lab.Run.open("b")
    atomic_io.write_yaml(other.dir / "config.yaml", other.config | {"train": {"lr": 0.5}})
    assert "this cannot be told yet" in texts(open_page("compare", runs=["a", "b"], cmp_view="Trade-offs"))
    write_run(runs, "s", "sequential", routed=False)
    assert "No method here stores examples" in texts(open_page("compare", runs=["s"], cmp_view="Trade-offs"))


def test_the_first_view_of_compare_with_what_is_equal_short_or_damaged(runs):
    write_run(runs, "a"), write_run(runs, "u", "uniform")
    app = open_page("compare")
    assert "**l2r** and **uniform** keep most" in texts(app) and "**l2r** and **uniform** forget most: 0.03" in texts(app)
    app.segmented_control(key="cmp_curve").set_value(lab.views.OWN_SHARE).run()
    (
        write_run(runs, "s", "sequential", routed=False),
        write_run(runs, "short", "replay", KEEPS[:1], status="stopped", routed=False),
    )
    app.multiselect(key="runs").set_value(["short"]).run()
    assert not app.exception and "**replay**: average accuracy 0.90." in texts(app)
    assert app.segmented_control(key="cmp_curve").value == "average_accuracy", "no routing, and nothing to forget yet"
    for file in (runs / "u" / "routing").iterdir():
        file.write_bytes(b"damaged")
    app = open_page("compare", runs=["u", "s"])
    assert not app.exception and not app.error and len(app.get("plotly_chart")) == 2


def test_one_method_alone_keeps_its_baseline_though_labels_grow_shorter(runs):
    write_run(runs, "a", events=False, routed=False), write_run(runs, "s", "sequential", FORGETS, events=False, routed=False)
    other = write_run(runs, "fast", events=False, routed=False)
    atomic_io.write_yaml(other.dir / "config.yaml", configuration(train={"lr": 0.002, "epochs": 2}))
    app = open_page("compare", runs=["a", "fast", "s"], baseline="l2r, train.lr 0.001", cmp_view="Numbers")
    app.session_state["cmp_only"] = "sequential"
    app.run()
    assert app.dataframe[1].value.index.tolist() == ["sequential"] and not app.warning
    app.button(key="cmp_show_all").click().run()
    assert len(app.dataframe[1].value) == 2
