"""Figures: their numbers are those of the views, their colours and ranges are the same on every chart."""

import dataclasses
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from support.decomposition import WENT
from support.run_folders import FORGETS, KEEPS, configuration, write_pool, write_queries, write_run

from lab import figures, views
from lab.comparison import tables
from lab.config.resolve import recipe_names
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.figures import METHOD_STYLE, drawing, methods
from lab.run_folder.prediction import kept
from lab.run_folder.writer import update_info


def cells(figure):
    return np.array(figure.data[0].z, dtype=float)


@pytest.fixture
def pair(runs):
    return write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS, routed=False)


def test_matrix_has_the_numbers_of_the_view_under_the_row_before_training(pair):
    drawn = figures.accuracy_matrix(pair[0])
    assert cells(drawn)[0].tolist() == pytest.approx([0.1] * 3)
    np.testing.assert_allclose(cells(drawn)[1:], views.accuracy_matrix(pair[0]), rtol=1e-6)
    assert drawn.layout.yaxis.ticktext[0] == "before training" and drawn.layout.yaxis.range == (3.5, -0.5)
    assert "not learned yet" in drawn.data[0].customdata[1][2]
    assert sorted(drawn.data[1].text) == sorted(f"{v:.2f}" for v in cells(drawn).ravel() if not np.isnan(v))


def test_every_matrix_has_the_same_colours_and_range(pair):
    looks = {
        (d.data[0].zmin, d.data[0].zmax, d.data[0].colorscale)
        for run in pair
        for d in (figures.accuracy_matrix(run, k) for k in range(3))
    }
    assert len(looks) == 1 and next(iter(looks))[:2] == (0, 1)
    assert figures.routing_by_task(pair[0], absolute=True).data[0].zmax == 1


def test_after_blanks_later_rows_and_keeps_the_shape(pair):
    early = cells(figures.accuracy_matrix(pair[0], after=0))
    assert early.shape == (4, 3) and np.isnan(early[2:]).all()


def test_difference_is_centred_on_zero(pair):
    heat = figures.matrix_difference(*pair).data[0]
    assert heat.zmid == 0 and heat.zmin == -heat.zmax == pytest.approx(-(0.86 - 0.32))
    np.testing.assert_allclose(np.array(heat.z, dtype=float), views.matrix_difference(*pair), rtol=1e-5)


def test_curves_show_the_views(pair):
    drawn = figures.forgetting_curves(pair[1])
    assert list(drawn.data[0].y) == [0.91, 0.55, 0.32] and list(drawn.data[0].x) == [1, 2, 3]
    lines = figures.average_curves(pair).data
    assert [line.name for line in lines] == ["l2r", "sequential"]
    assert list(lines[1].y) == pytest.approx(views.average_curve(pair[1]))
    assert (lines[0].line.color, lines[0].line.dash, lines[0].marker.symbol) == METHOD_STYLE["l2r"]


def test_seeds_are_joined_into_one_line(runs):
    made = [write_run(runs, f"s{seed}", seed=seed) for seed in range(3)]
    lines = [line for line in figures.average_curves(made).data if line.showlegend is not False]
    assert [line.name for line in lines] == ["l2r (mean of 3)"]


def test_loss_and_comparison(pair):
    assert sum(len(line.x) for line in figures.loss_curve(pair[0]).data) == 60
    bars = figures.scores_of_methods(pair).data
    for drawn, measure in zip(bars, ("average_accuracy", "forgetting"), strict=True):
        assert list(drawn.x) == pytest.approx([run.result()[measure] for run in pair])


def test_a_click_leaves_numbers_as_they_are_and_the_focus_has_an_outline(pair):
    drawn = figures.clickable(figures.routing_by_task(pair[0]), (2, 1))
    numbers = [trace for trace in drawn.data if trace.name == "numbers"]
    assert all(trace.unselected.textfont.color == trace.textfont.color for trace in numbers)
    assert sum(len(trace.text) for trace in numbers) == views.routing_by_task(pair[0]).size
    (outline,) = drawn.layout.shapes
    assert (outline.x0 + outline.x1, outline.y0 + outline.y1) == pytest.approx((2, 4))


def test_colours_say_how_many_times_the_equal_share(runs):
    """Doublings about 1 on one range for a run; the numbers in the cells stay shares. Of many tasks no colour is the same."""
    run = write_pool(runs, "few", 4, 5)
    drawn, shares = figures.routing_by_task(run), views.routing_by_task(run).to_numpy()
    times = shares * 5
    limit = drawn.data[0].zmax
    assert drawn.data[0].zmin == -limit == pytest.approx(-np.log2(min(8, times.max())))
    inside = np.abs(np.log2(times)) < limit
    np.testing.assert_allclose(cells(drawn)[inside], np.log2(times)[inside], atol=1e-5)
    assert sorted(drawn.data[1].text) == sorted(f"{share:.2f}" for share in shares.ravel())
    assert f"({times[0, 1]:.2f} × the equal share)" in drawn.data[0].customdata[0, 1]
    wide = figures.routing_by_task(write_pool(runs, "many", 50, 64))
    assert len(wide.data) == 1 and wide.data[0].showscale and "equal" in wide.data[0].colorbar.ticktext
    assert wide.layout.height < 900 and wide.layout.xaxis.tickfont.size < 10
    assert np.ptp(np.clip(cells(wide), wide.data[0].zmin, wide.data[0].zmax)) == pytest.approx(2 * wide.data[0].zmax)


def test_many_tasks_stand_in_the_order_or_the_groups_of_what_is_alike(runs):
    """Six tasks of three kinds, each of which uses experts of its own."""
    run = write_pool(runs, "a", 6, 6)
    path = run.dir / "routing" / "after_0.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    kinds = [0, 1, 2, 0, 1, 2]
    for task, kind in enumerate(kinds):
        shares = np.full(6, 0.01, dtype=np.float32)
        shares[[kind, kind + 3]] = 0.48
        arrays |= {f"{task}/share_sum": shares, f"{task}/weight_sum": np.tile(shares, (2, 1, 1))}
    atomic_io.write_arrays(path, arrays, header)
    alike = views.routing_map(run, order="likeness")
    order = [kinds[t] for (t,) in alike.attrs["rows"]]
    assert order in ([0, 0, *rest] for rest in ([1, 1, 2, 2], [2, 2, 1, 1])) or (order[2] == order[3] and order[0] == order[1])
    rows, columns = ([i for (i,) in alike.attrs[name]] for name in ("rows", "columns"))
    np.testing.assert_allclose(alike, views.routing_by_task(run).iloc[rows, columns])
    assert figures.routing_by_task(run, order="likeness").layout.yaxis.ticktext[0].startswith(f"{rows[0] + 1} · ")
    grouped = views.routing_map(run, order="groups")
    assert sorted(map(sorted, grouped.attrs["rows"])) == sorted(map(sorted, grouped.attrs["columns"])) == [[0, 3], [1, 4], [2, 5]]
    assert sorted(grouped.to_numpy().max(1)) == pytest.approx([0.96] * 3) and grouped.sum(axis=1).tolist() == pytest.approx(
        [1] * 3
    )
    assert figures.routing_by_task(run, order="groups").layout.yaxis.ticktext[0].endswith("+1")
    found = views.routing_map(run, find="task-2, POOL-4")
    assert (found.attrs["rows"], found.attrs["columns"]) == ([[2]], [[4]])
    assert views.routing_map(run, find="nothing like it").shape == (6, 6)
    with pytest.raises(LabError, match="order 'size' is unknown: use stream, likeness, groups"):
        views.routing_map(run, order="size")


def test_small_multiples_show_every_head_and_layer(runs):
    run = write_run(runs, "a")
    shares = views.shares_by_head(run)  # (T, L, H, E)
    drawn = figures.routing_panels(run, 2, "layers", 1)
    heats = [trace for trace in drawn.data if trace.type == "heatmap"]
    assert [note.text for note in drawn.layout.annotations] == views.layer_names(run.routing().layers) and len(heats) == 8
    np.testing.assert_allclose(views.routing_panels(run, 2, "layers", 1).loc["2 · value"], shares[1, 5].T, rtol=1e-6)
    assert len({heat.zmax for heat in heats}) == 1 and [heat.showscale for heat in heats] == [True] + [False] * 7
    by_head = views.routing_panels(run, 2, "heads", layer=5)
    np.testing.assert_allclose(by_head.loc["head 3"], shares[:, 5, 2].T, rtol=1e-6)
    np.testing.assert_allclose(views.routing_panels(run, 2, "heads").loc["head 1"], shares[:, :, 0].mean(1).T, rtol=1e-6)
    np.testing.assert_allclose(views.routing_panels(run, 2).loc["0 · query"], shares[:, 0].mean(1).T, rtol=1e-6)
    assert len(figures.routing_panels(run, 2, "heads", first=2).layout.annotations) == 2


def test_heads_differ_from_not_at_all_to_as_much_as_can_be(runs):
    run = write_run(runs, "a", heads=2)
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    alike, apart = np.zeros((2, 8, 2, 3), dtype=np.float32)
    alike[..., 1], apart[:, 0, 0], apart[:, 1, 2] = 1, 1, 1
    atomic_io.write_arrays(path, arrays | {"0/weight_sum": alike, "1/weight_sum": apart}, header)
    values = views.head_difference(run)
    assert values.iloc[:2].tolist() == pytest.approx([0, 1]) and 0 < values.iloc[2] < 0.1


def test_nearest_examples_are_those_with_the_smallest_angle(runs):
    run = write_run(runs, "a")
    with pytest.raises(LabError, match="no queries recorded"):
        views.nearest_examples(run, 2, np.zeros(5))
    write_queries(run)
    queries = [run.routing().queries(t).astype(float) for t in range(3)]
    near = views.nearest_examples(run, 2, queries[1][1])
    assert (near.loc[0, "task"], near.loc[0, "number"], near.loc[0, "expert"]) == ("weather", 1, "weather") and len(near) == 6
    flat = np.concatenate(queries) - np.concatenate(queries).mean(0)
    cosines = flat @ flat[3] / np.linalg.norm(flat, axis=1) / np.linalg.norm(flat[3])
    assert near["likeness"].tolist() == pytest.approx(sorted(cosines, reverse=True))


def test_no_number_is_minus_zero():
    table = pd.DataFrame([[-0.001, 0.004], [-0.2, 0.0]], ["layer.0", "layer.1"])
    numbers = drawing.weights_by_layer(table, "ab", "", "ab", signed=True, zmin=-1, zmax=1).data[1]
    assert list(numbers.text) == ["+0.00", "+0.00", "-0.20", "+0.00"]


def test_routing_figures(pair):
    drawn = figures.clickable(figures.routing_by_task(pair[0], absolute=True))
    np.testing.assert_allclose(cells(drawn), views.routing_by_task(pair[0]), rtol=1e-6)
    targets = drawn.data[-1]
    assert drawn.layout.hoverdistance == -1 and (targets.x[5], targets.y[5]) == (2, 1)
    layers = figures.routing_by_layer(pair[0], 2, 1, 1, absolute=True)
    np.testing.assert_allclose(cells(layers), views.routing_by_layer(pair[0], 2, 1, 1), rtol=1e-6)
    assert figures.routing_drift(pair[0]).data[0].zmin == -1
    profile = figures.routing_profile(pair[0], 2, 1, absolute=True)
    np.testing.assert_allclose(cells(profile), views.routing_profile(pair[0], 2, 1), rtol=1e-6)
    assert list(figures.routing_load(pair[0]).data[0].x) == pytest.approx([*views.routing_load(pair[0])["load"]])
    assert list(figures.routing_entropy(pair[0]).data[0].x) == pytest.approx([*views.routing_entropy(pair[0])])
    assert cells(figures.answer_by_layer(kept(pair[0], 2, 0)[1])).shape == (8, 3)


@pytest.mark.parametrize("heads", [1, 4])
def test_weights_have_one_range_at_all_moments_of_a_run(runs, heads):
    """A router that does not normalise: its weights grow from 1.5 over 3 to 6; every chart ends where the largest does."""
    run = write_run(runs, "a", heads=heads)
    for after, largest in enumerate((1.5, 3.0, 6.0)):
        path = run.dir / "routing" / f"after_{after}.safetensors"
        arrays, header = atomic_io.read_arrays(path)
        grown = {name: value * np.float32(largest) for name, value in arrays.items() if name.endswith(("weight_sum", "examples"))}
        atomic_io.write_arrays(path, arrays | grown, header)
    most = 6 * 0.95  # the fixture gives an expert 0.95 at most where there are several, 1 where it is alone
    assert views.largest_weight(run) == pytest.approx(most)
    for after in range(3):
        assert figures.routing_profile(run, after, 0, absolute=True).data[0].zmax == pytest.approx(most)
        drawn = figures.routing_by_layer(run, after, 0, 0, absolute=True)
        assert (drawn.layout.xaxis.range[1] if heads == 1 else drawn.data[0].zmax) == pytest.approx(most)
        undecided = figures.routing_by_layer(run, after, 0, 0, "entropy")
        assert (undecided.layout.xaxis.range[1] if heads == 1 else undecided.data[0].zmax) == 1
    answer = kept(run, 2, 0)[0]
    assert figures.answer_by_layer(answer, most=7).data[0].zmax == 7
    assert figures.answer_by_layer(answer, 0).data[0].zmax == pytest.approx(most)
    (run.dir / "routing" / "after_0.safetensors").write_bytes(b"xx")
    assert views.largest_weight(run) == pytest.approx(most)
    assert views.largest_weight(write_run(runs, "calm")) == 1
    assert views.largest_weight(write_run(runs, "none", routed=False)) == 1


def test_routing_by_task_in_one_layer_and_routing_head(runs):
    """Against the recorded arrays, of heads that differ and of weights that do not sum to one."""
    run = write_run(runs, "a")
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    sums = np.random.default_rng(0).uniform(0.1, 5, (3, 8, 4, 3)).astype(np.float32)  # task, layer, routing head, expert
    atomic_io.write_arrays(path, arrays | {f"{task}/weight_sum": sums[task] for task in range(3)}, header)
    parts = sums / sums.sum(-1, keepdims=True)
    for layer, head, expected in ((5, 2, parts[:, 5, 2]), (5, None, parts[:, 5].mean(1)), (None, 0, parts[:, :, 0].mean(1))):
        np.testing.assert_allclose(views.routing_by_task(run, 2, layer, head), expected, rtol=1e-5)
        np.testing.assert_allclose(cells(figures.routing_by_task(run, 2, layer, head, absolute=True)), expected, rtol=1e-5)
    with pytest.raises(LabError, match="run 'a' has no routing head 4: use 0 to 3"):
        views.routing_by_task(run, 2, 0, 4)
    with pytest.raises(LabError, match="run 'a' has no layer -1: use 0 to 7"):
        figures.routing_by_task(run, 2, -1)


def test_flow_keeps_the_weight_and_the_colours_of_experts(pair):
    drawn = figures.routing_flow(pair[0]).data[0]
    into = np.bincount(drawn.link.target, drawn.link.value, minlength=8)
    out = np.bincount(drawn.link.source, drawn.link.value, minlength=8)
    table = views.routing_flow(pair[0])
    assert out[:3] == pytest.approx(table.groupby("task", sort=False)["weight"].sum())
    assert into[3:6] == pytest.approx(out[3:6]) and into[6] == pytest.approx(table[table["own"]]["weight"].sum())
    assert list(drawn.node.color[3:6]) == [figures.task_style(i).colour for i in range(3)] == list(drawn.node.color[:3])
    assert drawn.node.label[-2:] == ("own expert", "another expert")
    late = figures.routing_flow(pair[0], 2, 7).data[0]
    assert late.link.value[0] == pytest.approx(0.92) and len(late.link.value) == 9 + 6


def test_a_flow_of_many_tasks_has_the_bands_that_can_be_read(runs):
    """Eighteen tasks that share eight experts: the widest band of each, in the colour of its expert."""
    run = write_pool(runs, "a", tasks=18, experts=8)
    table, drawn = views.routing_flow(run), figures.routing_flow(run).data[0]
    widest = table.loc[table.groupby("task", sort=False)["weight"].idxmax()]
    assert len(table) == 144 and list(drawn.link.value) == pytest.approx(widest["weight"].tolist())
    assert [drawn.node.customdata[place] for place in drawn.link.target] == widest["expert"].tolist()
    assert list(drawn.node.color[18:]) == [figures.task_style(i).colour for i in range(8)]
    for tasks, experts, bands in ((5, 6, 30), (5, 7, 30), (4, 8, 28), (40, 2, 40)):
        flow = views.routing_flow(write_pool(runs, f"{tasks}-{experts}", tasks, experts))
        assert len(flow) == tasks * experts and len(views.strongest_bands(flow)) == bands
        assert set(views.strongest_bands(flow).groupby("task").size()) == {bands // tasks}


def test_the_animation_has_a_frame_per_moment_on_one_scale(pair):
    drawn = figures.routing_animation(pair[0])
    assert [frame.name for frame in drawn.frames] == ["1", "2", "3"] and len({f.data[0].zmax for f in drawn.frames}) == 1
    for after, frame in enumerate(drawn.frames):
        values = np.array(frame.data[0].z, dtype=float)
        shares = views.routing_by_task(pair[0], after).to_numpy()
        np.testing.assert_allclose(values[: after + 1, : after + 1], np.log2(shares * (after + 1)), atol=1e-5)
        assert values.shape == (3, 3) and np.isnan(values[after + 1 :]).all() and np.isnan(values[:, after + 1 :]).all()
    assert drawn.data == drawn.frames[-1].data and drawn.layout.sliders[0].active == 2
    assert [step.args[0] for step in drawn.layout.sliders[0].steps] == [("1",), ("2",), ("3",)]


def test_query_map_draws_tasks_wrong_answers_and_keys(pair):
    write_queries(pair[0])
    table, drawn = views.query_map(pair[0]), figures.query_map(pair[0])
    *tasks, keys = drawn.data
    assert [list(trace.x) for trace in tasks] == [list(table["x"][i : i + 2]) for i in (0, 2, 4)]
    assert [trace.marker.color for trace in tasks] == list(keys.marker.color) == [figures.task_style(i).colour for i in range(3)]
    assert tasks[0].marker.symbol == ("circle", "circle-open") and "answered wrong" in tasks[0].customdata[1]
    assert list(keys.y) == list(table["y"][6:]) and "of the variance" in drawn.layout.xaxis.title.text


def test_the_legend_of_the_query_map_is_filled_wherever_one_answer_was_right(pair, monkeypatch):
    """It shows the symbol of a trace's first point."""
    write_queries(pair[0])
    table = views.query_map(pair[0])
    table.loc[[0, 1], "correct"] = [False, True]
    monkeypatch.setattr(views, "query_map", lambda run, after: table)
    trace = figures.query_map(pair[0]).data[0]
    assert trace.marker.symbol == ("circle", "circle-open") and list(trace.x) == [table["x"][1], table["x"][0]]


def test_one_routing_head_is_drawn_as_bars(runs):
    run = write_run(runs, "a", heads=1)
    for measure in figures.MEASURES:
        bars = figures.routing_by_layer(run, 2, 0, 0, measure).data[0]
        assert bars.type == "bar" and list(bars.x) == pytest.approx([*views.routing_by_layer(run, 2, 0, 0, measure)["head 1"]])


def test_one_answer(runs):
    answer, other = kept(write_run(runs, "a"), 2, 0)
    steps = figures.answer_decision(answer, 5, 2)
    bars = [trace for trace in steps.data if trace.type == "bar"]
    assert [list(one.x) for one in bars] == [list(answer.steps[name][5, 2]) for name in ("logits", "weights")]
    assert steps.layout.xaxis.range[0] < 0 and steps.layout.xaxis2.range == (0, 1)
    changed = dataclasses.replace(other, steps={"weights": np.roll(other.weights, 1, axis=-1)})
    np.testing.assert_allclose(cells(figures.answer_change(changed, answer)), changed.by_layer() - answer.by_layer(), atol=1e-6)
    assert figures.answer_change(changed, answer).data[0].zmid == 0
    wide = dataclasses.replace(answer, classes=["a", "b", "c"], probabilities=np.array([0.1, 0.7, 0.2]))
    moved = dataclasses.replace(wide, probabilities=np.array([0.85, 0.05, 0.1]))
    first, second = figures.answer_probabilities({"x": wide, "y": moved}, most=2).data
    assert (list(first.x), list(second.x)) == ([0.1, 0.7], [0.85, 0.05]) and first.marker.color != second.marker.color
    spoken = dataclasses.replace(answer, tokens=["<i>", "b"], token_weights=np.full((8, 2, 4, 3), 1 / 3))
    drawn = figures.answer_by_token(spoken)
    np.testing.assert_allclose(cells(drawn), 1 / 3, rtol=1e-6)
    assert drawn.layout.yaxis.ticktext[0] == "&lt;i&gt;"


def test_a_coloured_text_names_the_expert_of_each_token_in_each_layer(runs):
    """Layer 0: experts 0, 1 and 2; layer 1 of head 1: a tie. A router that decides once has one colour for the whole text."""
    answer = kept(write_run(runs, "a"), 2, 0)[0]
    weights = np.zeros((2, 3, 2, 3))
    weights[0, [0, 1, 2], :, [0, 1, 2]] = 1
    weights[1, :, 0, 2], weights[1, :, 1] = 0.9, 0.5
    answer = dataclasses.replace(
        answer,
        text="<i>a b",
        tokens=["<i>", "a", "b"],
        layers=["l.0.q", "l.0.v"],
        token_weights=weights,
        steps={"w": weights[:, 0]},
    )
    first, second = re.findall(r"<div.*?</div>", figures.coloured_text(answer))
    assert letters(first) == [("<i>", "A"), ("a", "B"), ("b", "C")] and letters(second) == [("<i>", "C"), ("a", "C"), ("b", "C")]
    assert letters(figures.coloured_text(answer, [1], head=1)) == [("<i>", "="), ("a", "="), ("b", "=")]
    once = dataclasses.replace(answer, token_weights=None)
    assert letters(figures.coloured_text(once)) == [("<i>a b", "A"), ("<i>a b", "C")]
    assert "<i>" not in figures.coloured_text(answer) and figures.expert_letter(27) == "AB"
    assert figures.layers_shown(6, 20) == [*range(6)] and figures.layers_shown(48, 20)[::11] == [0, 47]
    assert figures.layers_shown(48, 4000) == [47]


def letters(html: str) -> list[tuple[str, str]]:
    """Tokens and the letters behind them."""
    pairs = re.findall(r">([^<>]*) <sub>(?:<b>)?([A-Z=]+)(?:</b>)?</sub>", html)
    return [(unescape(token), letter) for token, letter in pairs]


def test_numbers_of_long_bars_stand_across_the_zero_line(runs):
    """Within [-a, a] a bar never reaches the half that its number stands in, so that it covers no name and no other column."""
    answer = kept(write_run(runs, "a"), 2, 0)[0]
    for scale, texts in ((1, ["7.24", "-5.53", "0.20"]), (10, ["72.4", "-55.3", "2.0"]), (100, ["724", "-553", "20"])):
        logits = np.broadcast_to(scale * np.array([7.24, -5.53, 0.2]), answer.weights.shape)
        drawn = figures.answer_decision(dataclasses.replace(answer, steps={"logits": logits, "weights": answer.weights}), 5, 2)
        bars, numbers, shares = drawn.data
        assert bars.text is None and [text.strip("\u00a0") for text in numbers.text] == texts
        assert numbers.x.tolist() == [0, 0, 0] and list(numbers.textposition) == ["middle left", "middle right", "middle left"]
        assert drawn.layout.xaxis.range == pytest.approx((-scale * 7.24, scale * 7.24))
        assert list(shares.text) == [f"{value:.2f}" for value in answer.weights[5, 2]]


def test_blame_figures(pair):
    drawn = figures.interference(pair[1]).data[0]
    assert (drawn.zmin, drawn.zmax) == (-1, 1) and np.array(drawn.z)[1].tolist() == pytest.approx([0.23, 0.32])
    np.testing.assert_allclose(cells(figures.routing_confusion(pair[0])), tables.routing_confusion(pair[0]), rtol=1e-6)


def test_the_graph_of_interference_has_an_arrow_per_cost(pair):
    """From the later task to the earlier one, the wider the dearer; gains have none."""
    table = tables.interference_matrix(pair[1])
    *arrows, nodes = figures.interference_graph(pair[1]).data
    place = {(round(x, 6), round(y, 6)): name for x, y, name in zip(nodes.x, nodes.y, table.columns, strict=True)}
    found = {tuple(place[round(x, 6), round(y, 6)] for x, y in zip(a.x, a.y, strict=True)): a.line.width for a in arrows}
    costs = table.stack().dropna().to_dict()
    assert found.keys() == costs.keys() and np.hypot(nodes.x, nodes.y) == pytest.approx(1)
    assert sorted(found, key=found.get) == sorted(costs, key=costs.get) and len(set(found.values())) == 3
    assert all(arrow.marker.symbol == ("circle", "arrow") for arrow in arrows)
    gains = [[0.5, None, None], [0.9, 0.9, None], [0.8, 0.902, 0.9]]
    atomic_io.write_json(pair[0].dir / "matrix.json", pair[0].recorded_scores | {"matrix": gains})
    assert [trace.name for trace in figures.interference_graph(pair[0]).data] == ["cooking → animals", "tasks"]
    assert len(figures.interference_graph(pair).data) == 1 + 2, "of several runs: their mean, -0.02 for weather and animals"


def test_decomposition_draws_the_terms_that_exist(pair):
    atomic_io.write_json(pair[1].dir / "decomposition.json", WENT)
    drawn = figures.decomposition(pair[1])
    assert [trace.name for trace in drawn.data] == ["Expert drift", "Classifier drift", "New classes", "Loss"]
    pieces = np.array([trace.x for trace in drawn.data[:3]], dtype=float)
    assert pieces.sum(0) == pytest.approx(np.array(drawn.data[3].x, dtype=float)) and drawn.layout.barmode == "relative"


def test_pareto_marks_the_dominated(pair):
    update_info(pair[1], cost=pair[1].info["cost"] | {"train_s": 20.0})  # dearer and worse
    line, points = figures.pareto(pair, "cost.train_s").data
    assert list(line.x) == [12.5] and list(points.x) == [12.5, 20.0] and list(points.marker.opacity) == [1.0, 0.35]
    assert "dominated by l2r" in points.customdata[1] and "not dominated" in points.customdata[0]
    assert figures.pareto(pair, "cost.train_s").layout.xaxis.type == "linear", "the costs are of one size"
    update_info(pair[1], cost=pair[1].info["cost"] | {"train_s": 200.0})
    assert figures.pareto(pair, "cost.train_s").layout.xaxis.type == "log"


def test_names_are_literal_everywhere(runs):
    tasks = ["<b>bold</b>", "a&b", "plain"]
    run = write_run(runs, "a", tasks=tasks)
    write_queries(run)
    for drawn in (
        figures.routing_flow(run),
        figures.routing_animation(run),
        figures.query_map(run),
        figures.interference(run),
        figures.interference_graph(run),
        figures.routing_confusion(run),
        figures.accuracy_matrix(run),
        figures.forgetting_curves(run),
        figures.loss_curve(run),
        figures.clickable(figures.routing_by_task(run)),
        figures.routing_drift(run),
        figures.answer_by_layer(kept(run, 2, 0)[0]),
        figures.answer_decision(kept(run, 2, 0)[0], 0),
        figures.answer_probabilities({"x": kept(run, 2, 0)[0]}),
        figures.routing_profile(run, 2, 0),
        figures.routing_load(run),
        figures.routing_entropy(run),
    ):
        text = drawn.to_json().replace("\\u003c", "<")
        assert "<b>bold" not in text.replace("<b>&lt;b&gt;bold", "") and "&lt;b&gt;bold" in text


def test_no_two_shipped_recipes_look_the_same(monkeypatch):
    """Colour and marker tell them apart, and there is room for more recipes."""
    names = recipe_names()
    looks = {name: (figures.style(name).colour, figures.style(name).marker) for name in names}
    assert len(set(looks.values())) == len(names), sorted(looks.items(), key=lambda item: item[1])
    figures.style.cache_clear()
    monkeypatch.setattr("lab.figures.drawing.recipe_names", lambda: sorted([*names, "a-new-one"]))
    more = {(figures.style(name).colour, figures.style(name).marker) for name in (*names, "a-new-one")}
    figures.style.cache_clear()
    assert len(more) == len(names) + 1


def test_groups_of_one_recipe_look_alike_in_every_figure(runs):
    """Two groups of l2r (of other temperatures): one colour, two markers, the same in every figure."""
    made = [write_run(runs, "a"), write_run(runs, "b"), write_run(runs, "s", "sequential", FORGETS, routed=False)]
    router = {"name": "gates", "temperature": 0.25}
    atomic_io.write_yaml(made[1].dir / "config.yaml", configuration(router=router))
    one, other = (group.label for group in views.groups(made)[:2])
    looks = figures.styles(views.groups(made))
    assert looks[one].colour == looks[other].colour and looks[one].marker != looks[other].marker
    points = figures.pareto(made).data[1]
    assert list(points.marker.symbol) == [look.marker for look in looks.values()]
    for drawn, last in ((methods.tradeoff(made), 3), (figures.average_curves(made), 3)):
        assert [trace.marker.symbol for trace in drawn.data[-last:]] == [look.marker for look in looks.values()]
    single = methods.differences(made, one).data[0]
    assert single.name == other and single.marker.symbol == looks[other].marker + "-open", "though the first is not drawn"


def test_styles_are_fixed_distinct_and_stable():
    assert len(set(METHOD_STYLE.values())) == len(METHOD_STYLE) == len({style.colour for style in METHOD_STYLE.values()})
    assert figures.style("my-own") == figures.style("my-own") != figures.style("my-other")
    assert figures.style("my-own").colour not in {style.colour for style in METHOD_STYLE.values()}


def test_an_unfinished_run_can_be_drawn(runs):
    run = write_run(runs, "a", matrix=[], status="running", events=False, routed=False)
    assert np.isnan(cells(figures.accuracy_matrix(run))[1:]).all()
    assert not figures.forgetting_curves(run).data and not figures.loss_curve(run).data
    partial = write_run(runs, "b", matrix=KEEPS[:1], status="running", partial=[0.8, 0.9, None])
    assert cells(figures.accuracy_matrix(partial, partial=True))[2][:2].tolist() == pytest.approx([0.8, 0.9])
