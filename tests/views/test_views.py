"""Views: tables that agree with the run folder, and damaged folders that break nothing."""

import json

import numpy as np
import pytest
import scipy
from scipy import stats
from sklearn.decomposition import PCA
from support.run_folders import FORGETS, KEEPS, TASKS, configuration, weights, write_queries, write_run, write_transfer

from lab import views
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.run_folder.events import Event
from lab.run_folder.run import Run
from lab.run_folder.writer import append_event, update_info


def test_matrix_and_curves(runs):
    run = write_run(runs, "a")
    table = views.accuracy_matrix(run)
    assert table.shape == (3, 3) and list(table.columns) == TASKS
    assert table.iloc[2].tolist() == KEEPS[2] and np.isnan(table.iat[0, 1])
    assert np.isnan(views.accuracy_matrix(run, after=1).iloc[2]).all()
    curves = views.forgetting_curves(run)
    assert curves[curves["task"] == 0]["score"].tolist() == [0.90, 0.88, 0.86]
    assert views.average_curve(run) == pytest.approx([0.90, 0.90, (0.86 + 0.91 + 0.94) / 3])
    assert views.metrics_after(run, 2)["average_accuracy"] == run.result()["average_accuracy"]


def test_partial_row_is_shown_only_when_asked_for(runs):
    run = write_run(runs, "a", matrix=KEEPS[:1], status="running", partial=[0.8, None, None])
    assert np.isnan(views.accuracy_matrix(run).to_numpy()[1]).all()
    assert views.accuracy_matrix(run, partial=True).iat[1, 0] == 0.8


def test_matrix_difference(runs):
    first, second = write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS)
    assert views.matrix_difference(first, second).iat[2, 0] == pytest.approx(0.86 - 0.32)
    other = write_run(runs, "c", tasks=TASKS[::-1])
    with pytest.raises(LabError, match="another order"):
        views.matrix_difference(first, other)


def test_a_row_of_another_length_is_damage_in_plain_words(runs):
    run = write_run(runs, "a")
    atomic_io.write_json(run.dir / "matrix.json", run.recorded_scores | {"matrix": [*KEEPS[:2], [0.5, 0.5]]})
    assert views.problem(run) == "run 'a' is damaged: matrix.json has a row that is not of 3 tasks"


def test_routing_accuracy_is_missing_for_the_reason_of_the_share(runs):
    run = write_run(runs, "a", routed=False)
    reason = "there is one shared expert"
    update_info(run, routing={"own_expert_share": None}, why={"routing.own_expert_share": reason})
    assert run.result()["why"]["routing.accuracy"] == reason


def test_damaged_runs_are_listed_with_their_reason(runs):
    write_run(runs, "good")
    for name in ("config.yaml", "run.json", "matrix.json"):
        bad = write_run(runs, f"bad-{name[:3]}")
        (bad.dir / name).write_text("{ not", encoding="utf-8")
    empty = write_run(runs, "bad-empty")
    (empty.dir / "config.yaml").write_text("just a text")
    table = views.runs_table(views.readable([]) + [Run(path) for path in sorted(runs.iterdir())]).set_index("run")
    assert len(table) == 5 and table.loc["good", "status"] == "finished"
    damaged = table.drop("good")
    assert set(damaged["status"]) == {"damaged"} and all("damaged" in reason for reason in damaged["reason"])
    assert [run.id for run in views.readable([Run(path) for path in runs.iterdir()])] == ["good"]


def test_summary_has_values_or_reasons_and_joins_seeds(runs):
    made = [write_run(runs, f"l2r-{seed}", seed=seed) for seed in range(2)] + [write_run(runs, "one", "replay", [[0.9]], ["a"])]
    table = views.summary(made).set_index(["label", "measure"])
    row = table.loc[("l2r", "average_accuracy")]
    assert (
        row["n"] == 2
        and row["value"] == pytest.approx(made[0].result()["average_accuracy"])
        and row["spread"] == pytest.approx(0)
    )
    missing = table.loc[("replay", "forgetting")]
    assert np.isnan(missing["value"]) and missing["why"] == "needs at least two learned tasks"
    shown = views.summary_table(made)
    assert shown.loc["Forgetting", "replay"] == "– (needs at least two learned tasks)"
    assert shown.loc["Uses task identity", "replay"] == "no"


def test_incomplete_runs_stay_out_of_means(runs):
    whole, part = write_run(runs, "a"), write_run(runs, "b", matrix=KEEPS[:2], status="stopped", seed=1)
    assert [len(group.runs) for group in views.groups([whole, part])] == [1, 1]
    assert not views.complete(part)


def test_labels_are_unique_and_short(runs):
    made = [write_run(runs, "a"), write_run(runs, "b", seed=1), write_run(runs, "c", "replay"), write_run(runs, "d", "replay")]
    assert views.labels(made) == ["l2r, seed 0", "l2r, seed 1", "replay, c", "replay, d"]


def test_config_difference_hides_equal_options(runs):
    table = views.config_difference([write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS)])
    assert set(table.index) == {"recipe", "router.temperature"}
    assert table.loc["router.temperature"].tolist() == ["1.0", "0.5"]


def test_losses_cover_the_whole_run_once(runs):
    run = write_run(runs, "a")
    table = views.losses(run)
    assert table["index"].tolist() == list(range(1, 61)) and table["loss"].iloc[0] == pytest.approx(1.01)
    assert table["term: task"].iloc[1] == 0.5 and table["task"].nunique() == 3
    anew = {"experts": 3, "trainable_parameters": 9, "reused": False, "progress": 0.7}
    append_event(run, {"kind": "TaskStarted", "task": 2, "name": TASKS[2], **anew})  # the last task begins anew
    assert views.losses(run)["index"].max() == 40
    assert len(views.losses(run, limit=10)) == 10


def test_a_half_written_line_is_skipped(runs):
    run = write_run(runs, "a")
    with open(run.dir / "events.jsonl", "a") as handle:
        handle.write('{"kind": "Step", "ta')
    assert run.newest_events()[-1]["kind"] == "RunEnded" and len(views.losses(run)) == 60


def test_progress_from_events(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    run = write_run(runs, "a", matrix=KEEPS[:1], status="running")
    last = run.newest_events()[-1]
    found = views.progress(run, now=lambda: last["time"])
    assert (found.task, found.tasks, found.name, found.epoch, found.step, found.steps) == (2, 3, "weather", 1, 10, 20)
    assert found.share == pytest.approx(0.5) and found.remaining_s == pytest.approx(12.5)  # half done in 12.5 s
    assert found.text() == "task 2/3 (weather) · training · epoch 1/2 · step 10/20 · about 00:12 left"
    assert views.progress(write_run(runs, "b", matrix=[], status="running", events=False)).stage == "starting to train"


def test_every_event_that_is_written_has_a_stage_in_words(runs, monkeypatch):
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    run = write_run(runs, "a", matrix=KEEPS[:1], status="running")
    for kind in {kind.__name__ for kind in Event.__subclasses__()} - {"Step", "Evaluating"}:
        append_event(run, {"kind": kind, "task": 1, "progress": 0.5})
        assert views.progress(run).stage not in (kind, "")


def test_alerts(runs):
    assert views.alerts(write_run(runs, "calm")) == []
    run = write_run(runs, "loud", "sequential", FORGETS)
    place = {"task": 2, "phase": "train", "epoch": 1, "epochs": 2, "step": 21, "steps": 20}
    append_event(run, {"kind": "Step", **place, "terms": {"task": None}, "lr": 0.1, "progress": 0.9})
    found = {alert.kind: alert.text for alert in views.alerts(run)}
    assert "task 3 (cooking), step 21" in found["loss"] and "weather lost 0.32" in found["forgotten"]


def test_collapse_alert(runs, monkeypatch):
    monkeypatch.setattr(
        "support.run_folders.weights",
        lambda task, experts, layers, heads: weights(0, experts, layers, heads) * 0 + np.eye(experts)[0],
    )
    found = views.alerts(write_run(runs, "a"))
    assert [alert.kind for alert in found] == ["collapse"] and "expert animals" in found[0].text


def test_alerts_about_routing_are_of_the_moment_asked_for(runs):
    """Expert 0 takes all after task 2 and none after task 3: it collapses there and is dead here."""
    run = write_run(runs, "a")
    for after, first in ((1, 1.0), (2, 0.0)):
        path = run.dir / "routing" / f"after_{after}.safetensors"
        arrays, header = atomic_io.read_arrays(path)
        for task in range(after + 1):
            share = np.full(after + 1, (1 - first) / after)
            share[0] = first
            arrays[f"{task}/share_sum"] = share * arrays[f"{task}/count"]
        atomic_io.write_arrays(path, arrays, header)
    assert [alert.kind for alert in views.alerts(run)] == [alert.kind for alert in views.alerts(run, 2)] == ["dead"]
    assert [alert.text for alert in views.alerts(run, 1)] == [
        "The router has collapsed: expert animals gets at least 100% on every task."
    ]
    assert views.alerts(run, 0) == []
    assert "no routing recorded" in views.alerts(run, 7)[0].text


def test_alerts_about_lost_points_follow_the_limit(runs):
    """The fixture's losses are 0.59 and 0.32."""
    run = write_run(runs, "loud", "sequential", FORGETS, routed=False)
    said = {limit: [alert.text.split()[1] for alert in views.alerts(run, lost=limit)] for limit in (0.2, 0.5, 0.6)}
    assert said == {0.2: ["animals", "weather"], 0.5: ["animals"], 0.6: []}
    assert [alert.text for alert in views.alerts(run)] == [alert.text for alert in views.alerts(run, lost=0.2)]


def test_routing_tables(runs):
    run = write_run(runs, "a")
    shares = views.routing_by_task(run)
    assert shares.shape == (3, 3) and shares.sum(axis=1).to_numpy() == pytest.approx(1)
    layers = views.routing_by_layer(run, 2, task=1, expert=1)
    assert layers.shape == (8, 4) and layers.iat[0, 0] == pytest.approx(0.4) and layers.iat[7, 3] == pytest.approx(0.89)
    drift = views.routing_drift(run)
    assert drift.to_numpy().sum(axis=1) == pytest.approx(0, abs=1e-6) and drift.iat[0, 0] < 0 < drift.iat[0, 2]
    assert views.own_expert(run, 2, 1) == 1
    assert views.own_share(run, 2) == pytest.approx(np.diag(shares).mean())
    with pytest.raises(LabError, match="no routing recorded"):
        views.routing_by_task(write_run(runs, "b", routed=False))


def test_routing_by_layer_measures_undecidedness_and_change(runs):
    run = write_run(runs, "a")
    now, then = run.routing(2), run.routing(0)
    entropy = views.routing_by_layer(run, 2, 0, 0, "entropy")
    change = views.routing_by_layer(run, 2, 0, 0, "change")
    for layer, head in np.ndindex(8, 4):
        p, q = then.mean(0)[layer, head], now.mean(0)[layer, head]
        assert entropy.iat[layer, head] == pytest.approx(scipy.stats.entropy(q) / np.log(3), rel=1e-4)
        expected = scipy.spatial.distance.jensenshannon([*p, 0, 0], q, 2)
        assert change.iat[layer, head] == pytest.approx(expected, abs=1e-3)
    assert (views.routing_by_layer(run, 2, 2, 0, "change") < 1e-3).all(axis=None)  # just learned
    (run.dir / "routing" / "after_0.safetensors").unlink()
    assert views.routing_by_layer(run, 2, 0, 0, "change").isna().all(axis=None)
    with pytest.raises(LabError, match="use weight, entropy or change"):
        views.routing_by_layer(run, 2, 0, 0, "size")


def test_load_of_experts(runs, monkeypatch):
    run = write_run(runs, "a")
    load = views.routing_load(run)
    assert load["load"].sum() == pytest.approx(1) and load["load"].to_numpy() == pytest.approx(views.routing_by_task(run).mean())
    assert load["largest"].sum() == pytest.approx(1)
    assert views.routing_profile(run, 2, 1).sum(axis=1).to_numpy() == pytest.approx(1)
    assert views.routing_entropy(run).min() > 0 and views.routing_entropy(run).max() < 1
    two = np.array([0.5, 0.49, 0.01])
    monkeypatch.setattr(
        "support.run_folders.weights", lambda task, experts, layers, heads: np.tile(two[:experts], (layers, heads, 1))
    )
    load = views.routing_load(write_run(runs, "b"))
    assert load["load"].tolist() == pytest.approx(two) and load["largest"].tolist() == pytest.approx([1, 0, 0])


def test_layer_names_are_short_where_they_differ():
    assert views.layer_names(["encoder.layer.0.attention.self.query", "h.1.mlp"]) == ["0 · query", "1 · mlp"]
    clash = ["a.0.left.query", "a.0.right.query", "b"]
    assert views.layer_names(clash) == clash


def test_examples_join_predictions_and_shares(runs):
    table = views.routed_examples(write_run(runs, "a"), 2, 1)
    assert table["correct"].tolist() == [True, False] and table["prediction"].iloc[1] == "weather/no"
    assert table[[f"share: {name}" for name in TASKS]].sum(axis=1).to_numpy() == pytest.approx(1)


def test_log_tail_keeps_the_last_state_of_progress_bars(runs):
    run = write_run(runs, "a")
    (run.dir / "log.txt").write_bytes(b"first\n10%\r50%\r100%\nlast\n")
    assert views.log_tail(run) == "first\n100%\nlast"


def test_configuration_helper_is_plain_json():
    assert json.loads(json.dumps(configuration())) == configuration()


# several runs -----------------------------------------------------------------------------------------------------------------

LAST = {0: [0.86, 0.91, 0.94], 1: [0.80, 0.90, 0.90], 2: [0.70, 0.80, 0.90]}
LOWER = {0: [0.60, 0.50, 0.70], 1: [0.50, 0.65, 0.60], 2: [0.55, 0.50, 0.50]}


def seeded(runs, recipe: str, rows: dict[int, list[float]], tasks=TASKS) -> list[Run]:
    return [write_run(runs, f"{recipe}-{seed}", recipe, [*KEEPS[:2], row], tasks, seed=seed) for seed, row in rows.items()]


def test_summary_has_the_interval_of_the_mean(runs):
    table = views.summary(seeded(runs, "l2r", LAST)).set_index("measure")
    values = [np.mean(row) for row in LAST.values()]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    row = table.loc["average_accuracy"]
    assert (row["n"], row["value"], row["low"], row["high"]) == (3, *map(pytest.approx, (np.mean(values), low, high)))
    assert views.summary_table(seeded(runs.parent / "again", "l2r", LAST)).at["Average accuracy", "l2r"] == (
        f"{np.mean(values):.3f} ± {high - np.mean(values):.3f}"
    )
    alone = views.summary(seeded(runs.parent / "alone", "l2r", {0: LAST[0]})).set_index("measure").loc["average_accuracy"]
    assert alone["n"] == 1 and np.isnan([alone["low"], alone["high"], alone["spread"]]).all()


def test_orders_are_repetitions_too(runs):
    same = seeded(runs, "l2r", {0: LAST[0]})
    turned = seeded(runs.parent / "turned", "l2r", {0: LAST[1]}, [*reversed(TASKS)])
    other = seeded(runs.parent / "other", "l2r", {0: LAST[2]}, ["x", "y", "z"])
    assert [len(group.runs) for group in views.groups(same + turned + other)] == [2, 1]


def test_differences_are_paired(runs):
    found = views.differences(seeded(runs, "l2r", LAST) + seeded(runs, "sequential", LOWER | {3: LAST[0]}))
    assert len(found) == 1
    row = found.iloc[0]
    pairs = ([np.mean(row) for row in rows.values()] for rows in (LAST, LOWER))
    bounds = stats.ttest_rel(*pairs).confidence_interval()
    assert (row["first"], row["second"], row["n"], row["claim"]) == ("l2r", "sequential", 3, True)
    assert (row["low"], row["high"]) == (pytest.approx(bounds.low), pytest.approx(bounds.high))
    assert row["p"] == 0.25, "2 / 2^3"
    apart = views.differences(seeded(runs.parent / "x", "l2r", LAST) + seeded(runs.parent / "y", "replay", LAST, ["x", "y", "z"]))
    assert apart.iloc[0]["n"] == 0 and apart.iloc[0]["why"] == "no seed and order is common to both"


def test_runs_of_different_tasks_are_compared_on_the_common_ones(runs):
    one = write_run(runs, "one", "l2r", KEEPS, ["a", "b", "c"])
    two = write_run(runs, "two", "replay", [[0.9, None], [0.6, 0.8]], ["c", "b"])
    assert views.common_tasks([one, two]) == ["b", "c"]
    found = views.summary([one, two]).set_index(["label", "measure"])["value"]
    assert found["l2r", "common_average_accuracy"] == pytest.approx((KEEPS[2][1] + KEEPS[2][2]) / 2)
    assert found["replay", "common_average_accuracy"] == pytest.approx(0.7)
    assert views.summary_table([one, two]).index[0] == "Average on common tasks"
    assert "common_average_accuracy" not in set(views.summary([one])["measure"])
    strange = write_run(runs, "three", "sequential", [[0.5]], ["z"])
    last = views.summary([one, strange]).set_index(["label", "measure"]).loc[("l2r", "common_average_accuracy")]
    assert np.isnan(last["value"]) and last["why"] == "no task is common to all runs"
    atomic_io.write_json(two.dir / "matrix.json", two.recorded_scores | {"labels": [["no", "yes"], ["other", "labels"]]})
    assert views.common_tasks([one, two]) == ["c"], "the same name with other labels is another task"


def test_runs_on_other_data_of_the_same_name_are_no_pairs(runs):
    one, two = seeded(runs, "l2r", LAST), seeded(runs, "replay", LAST)
    for run in (*one, *two):
        update_info(run, fingerprint={"tasks": {task: f"{task} {run.config['seed']}" for task in run.tasks}})
    assert views.unequal([*one, *two]) == [] and views.differences([*one, *two])["n"].tolist() == [len(one)]
    other = two[1].info["fingerprint"]["tasks"] | {one[0].tasks[1]: "edited"}
    update_info(two[1], fingerprint={"tasks": other})
    said = views.unequal([*one, *two])
    assert said == [f"The data of {one[0].tasks[1]} are not the same in {one[1].id} and {two[1].id}, so they are no pairs."]
    assert views.differences([*one, *two])["n"].tolist() == [len(one) - 1]


def test_swept_values_tell_groups_apart_whatever_their_orders(runs):
    made = [write_run(runs, f"r{rate}{i}", tasks=list(order)) for rate in (1, 2) for i, order in enumerate(("abc", "cba"))]
    for run in made:
        atomic_io.write_yaml(run.dir / "config.yaml", run.config | {"train": {"lr": float(run.id[1])}})
    made = [Run(made[i].dir) for i in (0, 3, 1, 2)]  # the first ones of the two groups have other orders
    assert [group.label for group in views.groups(made)] == ["l2r, train.lr 1.0", "l2r, train.lr 2.0"]


def test_an_unfinished_run_has_no_other_tasks_than_itself_or_its_repetition(runs):
    one, whole = write_run(runs, "one", matrix=KEEPS[:2], status="stopped"), write_run(runs, "whole", seed=1)
    for chosen in ([one], [one, whole]):
        assert len(views.unequal(chosen)) == 1 and "one has learned 2 of 3 tasks" in views.unequal(chosen)[0]
        assert "left out of paired differences" in views.unequal(chosen)[0]
        assert "common_average_accuracy" not in set(views.summary(chosen)["measure"])
    atomic_io.write_json(one.dir / "matrix.json", one.recorded_scores | {"labels": [["no", "yes"]] * 2 + [["other"]]})
    assert "different tasks" in views.unequal([one, whole])[0], "the same names with other labels are other tasks"


def test_transfer_runs_that_differ_are_said_to(runs):
    one, other = write_transfer(runs, "one"), write_transfer(runs, "other", "poly")
    assert views.unequal([one, other]) == []
    config = other.config
    moved = {"name": "transfer", "train_tasks": TASKS[:1], "held_out": TASKS[1:], "shots": [16]}
    atomic_io.write_yaml(other.dir / "config.yaml", config | {"backbone": {"name": "minilm"}, "protocol": moved})
    atomic_io.write_json(
        other.dir / "matrix.json", other.recorded_scores | {"held_out": {task: {"16": 0.6} for task in TASKS[1:]}}
    )
    other = Run(other.dir)
    assert views.unequal([one, other]) == [
        "These runs differ in their backbones: tiny, minilm. Their scores mean different things.",
        "These runs differ in their training tasks: animals, weather; animals. Their scores mean different things.",
        "These runs differ in their held-out tasks: cooking; cooking, weather. Their scores mean different things.",
    ]
    why = views.summary([one, other]).set_index(["label", "measure"])["why"]
    assert why["mhr", "average.16"] == "this run was not adapted to 16 shots" and why["poly", "average.16"] == ""


def test_flow_is_the_mean_weight_of_all_layers_or_of_one(runs):
    run = write_run(runs, "a")
    flow = views.routing_flow(run, 2).pivot(index="task", columns="expert", values="weight").loc[TASKS, TASKS]
    want = np.array([weights(task, 3, 8, 4).mean((0, 1)) for task in range(3)])
    np.testing.assert_allclose(flow, want, rtol=1e-6)
    one = views.routing_flow(run, 2, layer=7)
    assert one[one["own"]]["weight"].tolist() == pytest.approx([0.95 - 0.02 * 1.5] * 3)  # mean over four heads
    assert (one[one["own"]]["task"] == one[one["own"]]["expert"]).all() and len(one) == 9
    for layer in (8, -1):
        with pytest.raises(LabError, match="8 layers"):
            views.routing_flow(run, 2, layer)


def test_history_holds_the_shares_of_every_moment(runs):
    run = write_run(runs, "a")
    history = views.routing_history(run)
    assert list(history["after"].unique()) == [0, 1, 2]
    for after, rows in history.groupby("after"):
        table = rows.pivot(index="task", columns="expert", values="share").loc[TASKS[: after + 1], TASKS[: after + 1]]
        np.testing.assert_allclose(table, views.routing_by_task(run, after))
    assert views.routing_history(write_run(runs, "b", routed=False)).empty


def test_query_map_is_the_principal_components_and_stands_still(runs):
    run = write_run(runs, "a")
    with pytest.raises(LabError, match="no queries recorded"):
        views.query_map(run)
    write_queries(run)
    found, routing = views.query_map(run), run.routing()
    points = np.concatenate([routing.queries(task) for task in range(3)]).astype(float)
    pca = PCA(2).fit(points)
    reference = np.concatenate([pca.transform(points), pca.transform(routing.keys()[0].astype(float))])
    np.testing.assert_allclose(np.abs(found[["x", "y"]]), np.abs(reference), rtol=1e-6)  # signs of axes are free
    assert found.attrs["explained"] == pytest.approx(pca.explained_variance_ratio_)
    assert found["kind"].tolist() == ["query"] * 6 + ["key"] * 3 and found["task"].tolist()[6:] == TASKS
    assert found["correct"].tolist()[:2] == [True, False] and found["text"][0] == "A sentence about animals."
    early = views.query_map(run, 0)
    assert early["task"].tolist() == ["animals"] * 3
    np.testing.assert_allclose(early.iloc[:2][["x", "y"]], found.iloc[:2][["x", "y"]])


def test_query_map_without_keys_or_predictions(runs):
    run = write_run(runs, "a")
    write_queries(run, keys=False)
    for path in run.dir.glob("predictions/*"):
        path.unlink()
    found = views.query_map(run)
    assert set(found["kind"]) == {"query"} and found["correct"].isna().all()
