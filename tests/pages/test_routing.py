"""Routing: charts show what the run recorded, from all tasks down to one decision."""

import json
import time

import numpy as np
import pytest
from support import run_folders, toy
from support.pages import chart, element, heatmap, open_page, texts
from support.run_folders import TASKS, write_pool, write_queries, write_run

import lab
from lab import views
from lab.core import atomic_io
from lab.data import loading
from lab.run_folder.prediction import kept
from lab.run_folder.routing_record import STEPS

OPEN_STREAM = loading.open_stream  # as it is without the stream of these tests


def test_routing_focus_and_examples(runs):
    run = write_run(runs, "a", texts=["A <b>tagged</b> text", "second"])
    app = open_page("routing", rt_colour="share, 0 to 1", rt_layer="2 · value", rt_head="3")
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run), rtol=1e-6)
    app.selectbox(key="rt_task").set_value("cooking").run()
    app.selectbox(key="rt_expert").set_value("weather").run()
    np.testing.assert_allclose(chart(app, "rt_profile"), views.routing_profile(run, 2, 2), rtol=1e-6)
    assert app.text[0].value == "A <b>tagged</b> text"
    marks = {"rt_map": [(1.5, 2.5)], "rt_profile": [(4.5, 5.5)] * 2, "rt_steps": [(0.5, 1.5)], "rt_one": [(4.5, 5.5)] * 2}
    for key, rows in marks.items():  # one focus, outlined everywhere
        shapes = json.loads(element(app, key).proto.spec)["layout"]["shapes"]
        assert [(round(s["y0"], 1), round(s["y1"], 1)) for s in shapes] == rows, key
    deep = open_page("routing", rt_colour="share, 0 to 1", rt_view="Layers and heads", rt_task="cooking", rt_expert="weather")
    np.testing.assert_allclose(chart(deep, "rt_layers_weight"), views.routing_by_layer(run, 2, 2, 1), rtol=1e-6)
    app.select_slider(key="rt_after").set_value(2).run()
    assert not app.exception and app.selectbox(key="rt_task").value == "animals"
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run, 1), rtol=1e-6)


def test_routing_follows_one_decision_step_by_step(runs):
    run = write_run(runs, "a")
    app = open_page("routing", rt_task="weather", rt_layer="2 · value", rt_head="3", rt_example="2")
    assert "Focus: task **weather** › expert **weather** › layer **2 · value** › head **3**" in texts(app)
    answer = kept(run, 2, 1)[1]
    own = answer.weights[5, 2, 1]
    assert f"logits {np.log(own):.3f} → weights {own:.3f}" in texts(app) and app.text[0].value == answer.text
    drawn = json.loads(element(app, "rt_steps").proto.spec)["data"]
    assert [trace["customdata"] for trace in drawn if trace["type"] == "bar"] == [list(answer.experts)] * 2
    np.testing.assert_allclose(chart(app, "rt_one"), answer.by_layer(2), rtol=1e-6)
    app.button(key="rt_clear").click().run()
    assert app.selectbox(key="rt_layer").value == "(largest weight)" and app.selectbox(key="rt_task").value == "weather"
    assert "layer **3 · value** › head **1**" in texts(app)  # where the fixture gives the own expert the most


def test_routing_explains_steps_in_the_words_of_the_router(runs):
    """As they are recorded; of a run that recorded none, and of a step that nobody explains, what is right for every router."""
    run = write_run(runs, "a")
    assert f"1. **logits**: {STEPS['logits']}" in texts(open_page("routing"))
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    about = json.loads(header["about"]) | {"steps": ["logits", "odd"], "told": {"logits": "a row <b>of a table"}}
    arrays |= {f"{task}/steps/odd": arrays[f"{task}/steps/logits"] for task in range(3)}
    atomic_io.write_arrays(path, arrays, {"about": json.dumps(about)})
    shown = texts(open_page("routing"))
    assert "1. **logits**: a row <b>of a table" in shown and "2. **odd**: a value that this router names" in shown
    assert f"3. **weights**: {STEPS['weights']}" in shown and STEPS["logits"] not in shown


def test_routing_of_a_pool_says_that_tasks_share_experts(runs):
    run = write_pool(runs, "a", tasks=18, experts=8)
    app = open_page("routing")
    box, largest = app.selectbox(key="rt_expert"), views.routing_by_task(run).idxmax(axis=1)
    assert box.options == ["(largest share)", *(f"pool-{e}" for e in range(8))] and "own" not in app.button(key="rt_clear").help
    assert f"expert **{largest.iloc[0]}** ›" in texts(app)
    assert "Experts are shared here" in texts(app) and "diagonal" not in texts(app)
    app = open_page("routing", rt_view="All tasks")
    flow = views.routing_flow(run)
    share = flow.groupby("task")["weight"].max().sum() / flow["weight"].sum()
    assert f"1 of 8: they carry {share:.0%} of all weight; with equal weights it would be 12%" in texts(app)
    app = open_page("routing")
    app.selectbox(key="rt_expert").set_value("pool-7").run()
    assert "expert **pool-7** ›" in texts(app)
    app.button(key="rt_clear").click().run()
    assert f"expert **{largest.iloc[0]}** ›" in texts(app) and not app.exception
    write_run(runs, "b")
    shown = texts(own := open_page("routing", rt_run="b"))
    assert "diagonal that stands out" in shown and "Experts are shared" not in shown and "are drawn" not in shown
    assert own.selectbox(key="rt_expert").value == "(own expert)" and "own expert" in own.button(key="rt_clear").help


def test_routing_offers_both_summaries_of_all_tasks(runs):
    run = write_run(runs, "a")
    app = open_page("routing", rt_view="All tasks", rt_picture="Entropy")
    drawn = json.loads(element(app, "rt_entropy").proto.spec)["data"][0]
    assert list(drawn["text"]) == [f"{value:.2f}" for value in views.routing_entropy(run)] and not element(app, "rt_load")
    app = open_page("routing", rt_view="All tasks", rt_picture="Load")
    assert element(app, "rt_load") and not element(app, "rt_entropy")


def test_routing_lists_examples_from_the_most_to_the_least_routed(runs, monkeypatch):
    run = write_run(runs, "a", texts=["little", "much", "some"])
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    for i, weight in enumerate((0.1, 0.8, 0.4)):
        arrays["0/examples"][i, :, :, 1] = weight
    atomic_io.write_arrays(path, arrays, header)
    app = open_page("routing", rt_task="animals", rt_expert="weather")
    table = app.dataframe[0].value
    assert table["text"].tolist() == ["much", "some", "little"] and table.index.tolist() == [2, 3, 1]
    assert table["weight here"].tolist() == pytest.approx([0.8, 0.4, 0.1]) and app.text[0].value == "much"


def test_routing_measures_and_warnings(runs, monkeypatch):
    run = write_run(runs, "a", heads=1)
    app = open_page("routing", rt_view="Layers and heads", rt_measure="Change")
    bars = json.loads(element(app, "rt_layers_change").proto.spec)["data"][0]
    assert bars["type"] == "bar" and not [box for box in app.selectbox if box.key == "rt_head"]
    (run.dir / "routing" / "after_0.safetensors").unlink()
    assert "nothing to compare with" in texts(open_page("routing", rt_view="Layers and heads", rt_measure="Change"))
    two = np.array([0.5, 0.49, 0.01], dtype=np.float32)
    monkeypatch.setattr(run_folders, "weights", lambda task, experts, layers, heads: np.tile(two[:experts], (layers, heads, 1)))
    write_run(runs, "dead")
    assert "Expert cooking is dead" in texts(open_page("routing", rt_run="dead"))
    same = np.full(3, 1 / 3, dtype=np.float32)
    monkeypatch.setattr(run_folders, "weights", lambda task, experts, layers, heads: np.tile(same[:experts], (layers, heads, 1)))
    write_run(runs, "equal", "uniform")
    assert "nothing is chosen" in texts(open_page("routing", rt_run="equal"))


def test_routing_warns_of_the_moment_that_is_looked_at(runs):
    """After two tasks one expert took all; at the end it does not."""
    run = write_run(runs, "a")
    path = run.dir / "routing" / "after_1.safetensors"
    arrays, header = atomic_io.read_arrays(path)
    taken = {f"{task}/share_sum": np.array([1.0, 0.0]) * arrays[f"{task}/count"] for task in range(2)}
    atomic_io.write_arrays(path, arrays | taken, header)
    app = open_page("routing")
    assert "collapsed" not in texts(app)
    app.select_slider(key="rt_after").set_value(2).run()
    assert "The router has collapsed: expert animals" in texts(app)


def test_routing_map_of_one_layer_and_routing_head(runs):
    run = write_run(runs, "a", heads=4)
    app = open_page("routing", rt_map_layer="2 · value", rt_map_head="3", rt_colour="share, 0 to 1")
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run, 2, 5, 2), rtol=1e-5)
    assert any("routing_by_task(run1, 2, 5, 2" in code.value for code in app.code) and not app.exception
    write_run(runs, "b", heads=1)
    assert "rt_map_head" not in [box.key for box in open_page("routing", rt_run="b").selectbox]


def test_routing_pictures_flow_map_and_animation(runs):
    run = write_run(runs, "a")
    app = open_page("routing", rt_view="All tasks", rt_flow_layer="2 · value")
    links = json.loads(element(app, "rt_flow").proto.spec)["data"][0]["link"]
    assert links["value"][:9] == pytest.approx(views.routing_flow(run, 2, 5)["weight"].tolist())
    assert "of all weight goes to the task's own expert" in texts(app)
    app.select_slider(key="rt_after").set_value(1).run()
    assert not app.exception and len(json.loads(element(app, "rt_flow").proto.spec)["data"][0]["link"]["value"]) == 2
    play = open_page("routing", rt_view="All tasks", rt_picture="Over tasks")
    frames = json.loads(element(play, "rt_play").proto.spec)["frames"]
    assert [frame["name"] for frame in frames] == ["1", "2", "3"]
    assert "No queries are recorded for this run" in texts(open_page("routing", rt_view="All tasks", rt_picture="Query map"))
    write_queries(run)
    drawn = json.loads(element(open_page("routing", rt_view="All tasks", rt_picture="Query map"), "rt_queries").proto.spec)[
        "data"
    ]
    assert [trace["name"] for trace in drawn] == [*TASKS, "keys"]
    for path in run.dir.glob("routing/after_[01]*"):
        path.unlink()
    assert "animation needs at least two" in texts(open_page("routing", rt_view="All tasks", rt_picture="Over tasks"))


def test_routing_explains_what_is_missing(runs):
    write_run(runs, "a", "sequential", routed=False)
    assert "No routing is recorded" in texts(open_page("routing"))


def test_routing_of_one_shared_expert_is_explained(runs, monkeypatch):
    monkeypatch.setattr(
        run_folders, "weights", lambda task, experts, layers, heads: np.ones((layers, heads, 1), dtype=np.float32)
    )
    run = write_run(runs, "a", "sequential")
    for path in run.dir.glob("routing/*"):
        arrays, header = atomic_io.read_arrays(path)
        about = json.loads(header["about"]) | {"experts": ["shared"]}
        atomic_io.write_arrays(path, arrays, {"about": json.dumps(about)})
    app = open_page("routing")
    assert "one expert for all tasks" in texts(app) and not app.get("plotly_chart")


def test_routing_with_a_damaged_moment_says_so_and_the_others_work(runs):
    run = write_run(runs, "a")
    (run.dir / "routing" / "after_1.safetensors").write_bytes(b"xx")
    app = open_page("routing")
    assert len(app.get("plotly_chart")) > 3 and not app.error
    app.select_slider(key="rt_after").set_value(2).run()
    assert "routing/after_1.safetensors cannot be read" in texts(app) and not app.exception


def test_routing_tells_which_texts_the_router_sees_as_alike(runs):
    run = write_run(runs, "a")
    assert "No queries are recorded for this run, so likeness cannot be told" in texts(open_page("routing"))
    write_queries(run)
    app = open_page("routing", rt_task="weather", rt_example="2")
    near = views.nearest_examples(run, 2, run.routing().queries(1)[1])
    assert app.dataframe[1].value["likeness"].tolist() == pytest.approx(near["likeness"].tolist()[1:])
    assert app.dataframe[1].value["text"].tolist() == near["text"].tolist()[1:]


def test_routing_of_many_tasks_can_be_ordered_searched_and_clicked(runs):
    run = write_pool(runs, "a", tasks=50, experts=64)
    app = open_page("routing", rt_order="in groups")
    grouped = views.routing_map(run, order="groups")
    assert chart(app, "rt_map").shape == grouped.shape and max(grouped.shape) < 12
    app.selectbox(key="rt_order").set_value("as in the stream").run()
    app.text_input(key="rt_find").set_value("task-7, pool-3").run()
    assert chart(app, "rt_map").shape == (1, 11) and not app.exception
    panels = open_page("routing", rt_view="Layers and heads")
    assert chart(panels, "rt_panels_chart").shape == (64, 50) and "one routing head" in texts(panels)


def test_what_if_answers_from_the_record_or_asks_the_model(runs, tmp_path, monkeypatch):
    """Nothing changed: the recorded row. A change: the same numbers as from Python, once the model has answered."""
    from lab.analysis.what_if import what_if

    monkeypatch.setattr(loading, "open_stream", OPEN_STREAM)
    stream, options = str(toy.folder(tmp_path / "toy")), toy.overrides("l2r", "router.heads=2")
    run = lab.run("l2r", options, stream=stream, backbone="tiny", runs=runs, id="routed", progress=False)
    app = open_page("routing", rt_view="What if")
    assert "As recorded." in texts(app) and app.metric[0].value == f"{run.metrics()['average_accuracy']:.3f}"
    app.slider(key="rt_wi_top").set_value(1).run()
    wanted = what_if(run, top=1)
    for _ in range(100):
        if "test texts under these settings" in texts(app):
            break
        time.sleep(0.3)
        app.run()
    assert "Without a change it answers city exactly as recorded" in texts(app)
    assert [metric.value for metric in app.metric] == [f"{pair['changed']:.3f}" for pair in wanted["metrics"].values()]
    drawn = json.loads(element(app, "rt_wi_row").proto.spec)["data"]
    assert drawn[1]["text"] == [f"{row['changed']:.2f}" for row in wanted["tasks"]] and element(app, "rt_wi_shares")
    app.button(key="rt_wi_reset").click().run()
    assert "As recorded." in texts(app) and not app.exception


def test_what_if_of_a_run_without_weights_says_so(runs):
    write_run(runs, "a")
    app = open_page("routing", rt_view="What if", rt_wi_temperature="0.5")
    assert "without its weights of this moment" in texts(app) and element(app, "rt_wi_shares") and not app.exception
    early = open_page("routing", rt_view="What if", rt_after="1")
    assert "it always acts, so there is nothing to choose" in texts(early) and not early.exception
