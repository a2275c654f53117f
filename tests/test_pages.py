"""Pages: every one with no run, one, many, damaged ones; numbers on screen are those of the run."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import FORGETS, KEEPS, TASKS, write_run
from streamlit.testing.v1 import AppTest

import lab
from lab import figures, files, jobs, views
from lab.answer import kept
from lab.pages import shell

MAIN = Path(lab.__file__).parent / "pages" / "main.py"
PAGES = ["start", "train", "jobs", "compare", "routing", "playground"]


@pytest.fixture(autouse=True)
def stream(monkeypatch):
    """A stream that needs no data."""
    sources = pytest.importorskip("lab.sources")
    monkeypatch.setattr(sources, "open_stream", lambda name, parts=(): SimpleNamespace(names=lambda: list(TASKS), orders={}))


def open_page(name: str, **parameters: str) -> AppTest:
    """A page as it looks when opened by its link."""
    app = AppTest.from_file(str(MAIN), default_timeout=180)  # seconds, for busy machines
    if name != "start":
        app.run()  # the list of pages is known after this
        app.switch_page(f"{name}.py")
    for key, value in parameters.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception, app.exception[0].message
    return app


def texts(app: AppTest) -> str:
    """All text of a page."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "success", "text")
    return "\n".join(element.value for kind in kinds for element in getattr(app, kind)).replace("\\", "")


def element(app: AppTest, key: str):
    """The chart with this key, or None."""
    return next((one for one in app.get("plotly_chart") if one.proto.id.endswith(f"-{key}")), None)


def chart(app: AppTest, key: str) -> np.ndarray | None:
    """The cells of the chart with this key; None if it has none."""
    numbers = [one.proto.id for one in app.get("plotly_chart")]
    place = next((i for i, id in enumerate(numbers) if id.endswith(f"-{key}")), None)
    traces = json.loads(element(app, key).proto.spec)["data"] if place is not None else []
    return heatmap(app, place) if traces and "z" in traces[0] else None


def heatmap(app: AppTest, number: int) -> np.ndarray:
    """The cells of a chart of the page."""
    z = json.loads(app.get("plotly_chart")[number].proto.spec)["data"][0]["z"]
    if isinstance(z, list):
        return np.array(z, dtype=float)
    values = np.frombuffer(base64.b64decode(z["bdata"]), dtype=z["dtype"])
    return values.reshape([int(size) for size in z["shape"].split(",")])


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("case", ["none", "one", "many", "damaged", "unrouted", "begun"])
def test_every_page_in_every_situation(runs, page, case):
    if case == "many":
        for seed in range(40):
            write_run(runs, f"run-{seed}", seed=seed, events=seed < 2, routed=seed < 2)
    elif case == "damaged":
        for name in ("run.json", "config.yaml", "matrix.json"):
            (write_run(runs, f"bad-{name[:3]}").dir / name).write_text("{")
        (write_run(runs, "bad-routing").dir / "routing" / "after_2.safetensors").write_bytes(b"xx")
    elif case == "begun":
        write_run(runs, "a", matrix=[], status="queued", events=False)
    elif case != "none":
        write_run(runs, "a", routed=case != "unrouted")
    app = open_page(page)
    assert len(app.title) == 1
    if case == "damaged" and page == "compare":
        assert "config.yaml cannot be read" in texts(app)
    if page != "train":  # which loads the plug-ins
        assert not app.error or case == "damaged"


def test_start_tells_the_recorded_story(recorded):
    app = open_page("start")
    routed = write_run(recorded, "other").result()  # the same numbers as the recorded one
    assert [metric.value for metric in app.metric][:2] == [f"{routed[name]:.3f}" for name in ("average_accuracy", "forgetting")]
    assert app.metric[2].value == "0.710" and "recorded example" in texts(app)
    assert "lost 0.46 per old task" in texts(app) and "0.28 more" in texts(app)
    np.testing.assert_allclose(heatmap(app, 0)[1:], np.array(FORGETS, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(heatmap(app, 2)[1:], np.array(KEEPS, dtype=float), rtol=1e-6)


def test_start_slider_moves_every_chart(recorded):
    app = open_page("start")
    app.slider(key="after").set_value(2).run()
    assert app.metric[0].value == "0.900" and np.isnan(heatmap(app, 0)[3]).all() and "weather" in texts(app)
    assert open_page("start", after="1").metric[1].value == "–"


def test_jobs_show_state_reason_and_actions(runs, monkeypatch):
    failed = write_run(runs, "failed", matrix=KEEPS[:1], status="failed")
    failed.update(error="task weather: <b>no</b> memory")
    (failed.dir / "log.txt").write_text("the last line")
    app = open_page("jobs", job="failed")
    assert "<b>no</b> memory" in texts(app) and "the last line" in app.code[0].value
    assert [button.label for button in app.button] == ["Resume"]
    table = app.dataframe[0].value.set_index("run")
    assert (
        table.loc["failed", "status"] == "failed"
        and table.loc["failed", "average_accuracy"] == failed.result()["average_accuracy"]
    )
    np.testing.assert_allclose(heatmap(app, 1)[1, 0], 0.9, rtol=1e-6)
    resumed = []
    monkeypatch.setattr(jobs, "resume", resumed.append)
    app.button(key="resume").click().run()
    assert [run.id for run in resumed] == ["failed"]


def test_jobs_show_a_running_run(runs, monkeypatch):
    monkeypatch.setattr("lab.runs.process_alive", lambda pid, started: True)
    run = write_run(runs, "live", matrix=KEEPS[:1], status="running", partial=[0.7, None, None])
    app = open_page("jobs")
    assert [button.label for button in app.button] == ["Stop after this task", "Stop now"]
    assert heatmap(app, 1)[2, 0] == pytest.approx(0.7)
    app.button(key="stop_after").click().run()
    assert run.stop_requested and app.button(key="stop_after").disabled


def test_compare_shows_the_numbers_of_the_runs(runs):
    made = [write_run(runs, "a"), write_run(runs, "b", "sequential", FORGETS, routed=False)]
    app = open_page("compare")
    table = app.dataframe[0].value
    assert list(table.columns) == ["sequential (n = 1)", "l2r (n = 1)"]
    for run, column in zip(made, ("l2r (n = 1)", "sequential (n = 1)"), strict=True):
        assert table.loc["Average accuracy", column] == f"{run.result()['average_accuracy']:.3f}"
        assert table.loc["Forgetting", column] == f"{run.result()['forgetting']:.3f}"
    assert table.loc["Forward transfer", "l2r (n = 1)"] == "– (needs single-task scores)"
    assert "router.temperature" in app.dataframe[1].value.index
    difference = heatmap(app, 3)
    np.testing.assert_allclose(difference, views.matrix_difference(*made), rtol=1e-5)


def test_compare_restores_the_runs_of_a_link_and_reads_recorded_ones(runs, recorded):
    write_run(runs, "a"), write_run(runs, "b", seed=1), write_run(runs, "c", seed=2)
    app = open_page("compare")
    app.multiselect(key="runs").set_value(["a", "~builtin-sequential"]).run()
    assert not app.exception and list(app.dataframe[0].value.columns) == ["l2r (n = 1)", "sequential (n = 1)"]
    app.multiselect(key="runs").set_value(["a", "b", "c"]).run()
    assert list(app.dataframe[0].value.columns) == ["l2r (n = 3)"]
    app.multiselect(key="runs").set_value([]).run()
    assert "Choose at least one" in texts(app)


def test_compare_warns_of_unequal_runs(runs):
    write_run(runs, "a"), write_run(runs, "b", "sequential", [[0.5, None], [0.4, 0.6]], ["x", "y"], routed=False)
    app = open_page("compare")
    assert "different tasks" in texts(app)


def test_routing_focus_and_examples(runs):
    run = write_run(runs, "a", texts=["A <b>tagged</b> text", "second"])
    app = open_page("routing")
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run), rtol=1e-6)
    app.selectbox(key="rt_task").set_value("cooking").run()
    app.selectbox(key="rt_expert").set_value("weather").run()
    np.testing.assert_allclose(chart(app, "rt_profile"), views.routing_profile(run, 2, 2), rtol=1e-6)
    np.testing.assert_allclose(chart(app, "rt_layers_weight"), views.routing_by_layer(run, 2, 2, 1), rtol=1e-6)
    assert app.text[0].value == "A <b>tagged</b> text"
    app.select_slider(key="rt_after").set_value(2).run()
    assert not app.exception and app.selectbox(key="rt_task").value == "animals"
    np.testing.assert_allclose(heatmap(app, 0), views.routing_by_task(run, 1), rtol=1e-6)


def test_code_of_a_chart_draws_that_chart(runs, recorded, monkeypatch):
    """What the popover says is run as it stands: same figure, same numbers; the file holds them too."""
    monkeypatch.setattr(lab, "__path__", [str(recorded.parent)])
    for made, open_it in ((write_run(runs, "a"), "lab.Run.open('a')"), (lab.Run.open("builtin-l2r", recorded), "/examples')")):
        code = shell.python_of(figures.routing_by_task, views.routing_by_task, (made, 1), {"title": "<x>"})
        assert open_it in code and code.endswith("lab.views.routing_by_task(run1, 1)")
        *before, drawing, numbers = code.splitlines()
        names: dict = {}
        exec("\n".join(before), names)
        assert eval(drawing, names) == figures.routing_by_task(made, 1, title="<x>")
        assert eval(numbers, names).equals(views.routing_by_task(made, 1))
    both = [made, lab.Run.open("a")]
    assert "lab.figures.average_curves([run1, run2])" in shell.python_of(figures.average_curves, None, (both,), {})
    assert shell.command_of(both[1:]) == "lab show a --json"
    assert shell.command_of(both).startswith("lab compare builtin-l2r a --json --runs ")


def test_a_chart_card_offers_code_and_numbers(runs):
    run = write_run(runs, "a")
    app = open_page("routing")
    assert any("lab.figures.routing_by_task(run1, 2)" in code.value for code in app.code)
    assert "lab show a --json" in [code.value for code in app.code]
    button = next(button for button in app.get("download_button") if button.proto.label == "Numbers as CSV")
    assert button.proto.id and run.id == "a"


def test_routing_follows_one_decision_step_by_step(runs):
    run = write_run(runs, "a")
    app = open_page("routing", rt_task="weather", rt_layer="2 · value", rt_head="3", rt_example="2")
    assert "Looking at task **weather** › expert **weather** › layer **2 · value** › head **3**" in texts(app)
    answer = kept(run, 2, 1)[1]
    own = answer.weights[5, 2, 1]
    assert f"logits {np.log(own):.3f} → weights {own:.3f}" in texts(app) and app.text[0].value == answer.text
    bars = json.loads(element(app, "rt_steps").proto.spec)["data"]
    assert [trace["customdata"] for trace in bars] == [list(answer.experts)] * 2
    np.testing.assert_allclose(chart(app, "rt_one"), answer.by_layer(2), rtol=1e-6)
    app.button(key="rt_clear").click().run()
    assert app.selectbox(key="rt_layer").value == "(largest weight)" and app.selectbox(key="rt_task").value == "weather"
    assert "layer **3 · value** › head **1**" in texts(app)  # where the fixture gives the own expert the most


def test_routing_lists_examples_from_the_most_to_the_least_routed(runs, monkeypatch):
    run = write_run(runs, "a", texts=["little", "much", "some"])
    path = run.dir / "routing" / "after_2.safetensors"
    arrays, header = files.read_arrays(path)
    for i, weight in enumerate((0.1, 0.8, 0.4)):
        arrays["0/examples"][i, :, :, 1] = weight
    files.write_arrays(path, arrays, header)
    app = open_page("routing", rt_task="animals", rt_expert="weather")
    table = app.dataframe[0].value
    assert table["text"].tolist() == ["much", "some", "little"] and table.index.tolist() == [2, 3, 1]
    assert table["weight here"].tolist() == pytest.approx([0.8, 0.4, 0.1]) and app.text[0].value == "much"


def test_routing_measures_and_warnings(runs, monkeypatch):
    run = write_run(runs, "a", heads=1)
    app = open_page("routing", rt_measure="Change")
    bars = json.loads(element(app, "rt_layers_change").proto.spec)["data"][0]
    assert bars["type"] == "bar" and not [box for box in app.selectbox if box.key == "rt_head"]
    (run.dir / "routing" / "after_0.safetensors").unlink()
    assert "nothing to compare with" in texts(open_page("routing", rt_measure="Change"))
    two = np.array([0.5, 0.49, 0.01], dtype=np.float32)
    monkeypatch.setattr("conftest.weights", lambda task, experts, layers, heads: np.tile(two[:experts], (layers, heads, 1)))
    write_run(runs, "dead")
    assert "Dead: no task gives a tenth of an equal share to cooking." in texts(open_page("routing", rt_run="dead"))
    same = np.full(3, 1 / 3, dtype=np.float32)
    monkeypatch.setattr("conftest.weights", lambda task, experts, layers, heads: np.tile(same[:experts], (layers, heads, 1)))
    write_run(runs, "equal", "uniform")
    assert "nothing is chosen" in texts(open_page("routing", rt_run="equal"))


def test_routing_explains_what_is_missing(runs):
    write_run(runs, "a", "sequential", routed=False)
    assert "No routing is recorded" in texts(open_page("routing"))


def test_routing_of_one_shared_expert_is_explained(runs, monkeypatch):
    monkeypatch.setattr("conftest.weights", lambda task, experts, layers, heads: np.ones((layers, heads, 1), dtype=np.float32))
    run = write_run(runs, "a", "sequential")
    for path in run.dir.glob("routing/*"):
        arrays, header = files.read_arrays(path)
        about = json.loads(header["about"]) | {"experts": ["shared"]}
        files.write_arrays(path, arrays, {"about": json.dumps(about)})
    app = open_page("routing")
    assert "one expert for all tasks" in texts(app) and not app.get("plotly_chart")


def test_routing_with_a_damaged_moment_says_so_and_the_others_work(runs):
    run = write_run(runs, "a")
    (run.dir / "routing" / "after_1.safetensors").write_bytes(b"xx")
    app = open_page("routing")
    assert len(app.get("plotly_chart")) > 4 and not app.error
    app.select_slider(key="rt_after").set_value(2).run()
    assert "routing/after_1.safetensors cannot be read" in texts(app) and not app.exception


# -- playground --------------------------------------------------------------------------------------------------------------


def test_playground_shows_recorded_answers_without_a_model(runs, monkeypatch):
    run = write_run(runs, "a", texts=["A <b>tagged</b> text", "second"])
    app = open_page("playground")
    assert app.text_area(key="pg_text").value == "A <b>tagged</b> text"
    assert "#### **animals/yes** with probability 0.90; the true class is **animals/yes**" in texts(app)
    np.testing.assert_allclose(chart(app, "pg_layers_0"), kept(run, 2, 0)[0].by_layer(), rtol=1e-6)
    app.selectbox(key="pg_example").set_value("weather 2").run()
    assert app.text_area(key="pg_text").value == "second" and "**weather/no**" in texts(app)
    app.text_area(key="pg_text").set_value("a text of mine").run()
    assert app.selectbox(key="pg_example").value == "(typed)" and "without its weights" in texts(app)
    app.text_area(key="pg_text").set_value("  ").run()
    assert "Type a text above" in texts(app)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Runs that were really trained, on the toy stream with the tiny backbone."""
    import toy

    folder = tmp_path_factory.mktemp("trained")
    for id, recipe, *more in (("told", "oracle"), ("one", "sequential"), ("routed", "l2r", "router.heads=2")):
        toy.recorded(toy.session(recipe, *more), folder, id)
    return folder


@pytest.fixture
def model(runs, played, monkeypatch):
    """The dashboard over those runs, and the model of the routed one."""
    from lab.inference import load

    monkeypatch.setenv("LAB_RUNS", str(played))
    return load(lab.Run.open("routed"), 1)


def probabilities(app: AppTest) -> list[list[float]]:
    """The bars of the classes, one list per answer."""
    traces = json.loads(element(app, "pg_classes").proto.spec)["data"]
    return [[float(text) for text in trace["text"]] for trace in traces]


def typed(text: str = "red wave harbour", **parameters: str) -> AppTest:
    app = open_page("playground", pg_run="routed", **parameters)
    app.text_area(key="pg_text").set_value(text).run()
    assert not app.exception, app.exception[0].message
    return app


def test_playground_answers_as_the_model_does(model):
    app, answer = typed(), model.answer("red wave harbour")
    assert f"#### **{answer.prediction}** with probability {answer.probabilities.max():.2f}" in texts(app)
    assert probabilities(app) == [[round(p, 2) for p in answer.ranked()]]
    np.testing.assert_allclose(chart(app, "pg_layers_0"), answer.by_layer(), atol=1e-6)
    app.segmented_control(key="pg_head").set_value("2").run()
    np.testing.assert_allclose(chart(app, "pg_layers_0"), answer.by_layer(1), atol=1e-6)
    assert any("load(lab.Run.open('routed'), 1).answer('red wave harbour')" in code.value for code in app.code)


@pytest.mark.parametrize(
    ("parameters", "change"),
    [
        ({"pg_route": "one expert", "pg_expert": "city"}, {"expert": 1}),
        ({"pg_route": "equal weights"}, {"uniform": True}),
        ({"pg_temperature": "0.2", "pg_top": "1"}, {"temperature": 0.2, "top": 1}),
        ({"pg_off": "2"}, {"without": (1,)}),
    ],
)
def test_playground_changes_the_routing_beside_the_original(model, parameters, change):
    """A link restores the change; the answer is that of the model; reset puts the original's numbers there."""
    from lab.inference import Override

    app = typed(pg_beside="changed routing", **parameters)
    original, changed = model.answer("red wave harbour"), model.answer("red wave harbour", Override(**change))
    np.testing.assert_allclose(chart(app, "pg_layers_0"), original.by_layer(), atol=1e-6)
    np.testing.assert_allclose(chart(app, "pg_layers_1"), changed.by_layer(), atol=1e-6)
    np.testing.assert_allclose(chart(app, "pg_change"), changed.by_layer() - original.by_layer(), atol=1e-6)
    verb = "stays" if original.prediction == changed.prediction else "becomes"
    assert f"With changed routing, the answer {verb} **{changed.prediction}**" in texts(app)
    made = ", ".join(f"{name}={value!r}" for name, value in change.items())
    assert any(f"Override({made})" in code.value for code in app.code)
    app.button(key="pg_reset").click().run()
    assert np.array_equal(chart(app, "pg_layers_1"), chart(app, "pg_layers_0")) and not chart(app, "pg_change").any()
    first, second = probabilities(app)
    assert first == second


def test_playground_compares_moments_and_runs(model):
    app = typed(pg_beside="another moment")
    assert chart(app, "pg_classes") is None and len(probabilities(app)) == 2 and "With after task 1" in texts(app)
    app.segmented_control(key="pg_beside").set_value("another run").run()
    app.selectbox(key="pg_other").set_value("one").run()
    assert "With one, the answer" in texts(app) and not app.exception
    assert [one for one in app.get("plotly_chart") if one.proto.id.endswith("pg_layers_0")] and not element(app, "pg_change")


def test_playground_tells_the_task_where_the_model_is_told(model):
    app = open_page("playground", pg_run="told")
    app.text_area(key="pg_text").set_value("red wave").run()
    app.selectbox(key="pg_task").set_value("city").run()
    assert (chart(app, "pg_layers_0") == [0, 1]).all()
    app = open_page("playground", pg_run="one")
    app.text_area(key="pg_text").set_value("red wave").run()
    assert "one expert for everything" in texts(app) and not [box for box in app.selectbox if box.key == "pg_task"]


def test_playground_says_why_a_model_cannot_be_asked(model, played, tmp_path, monkeypatch):
    shutil.copytree(played / "routed", tmp_path / "broken" / "routed")
    (tmp_path / "broken" / "routed" / "experts" / "sea" / "adapter_model.safetensors").unlink()
    monkeypatch.setenv("LAB_RUNS", str(tmp_path / "broken"))
    app = typed()
    assert "adapter_model.safetensors is missing" in app.error[0].value.replace("\\", "")
    app.selectbox(key="pg_example").set_value("sea 1").run()
    assert not app.error and chart(app, "pg_layers_0") is not None  # recorded answers need no model


# -- train -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """Configurations that were started, instead of processes."""
    found = []

    def start(config, runs=None, together=False, id=None):
        found.append(config)
        return SimpleNamespace(id="new-run")

    monkeypatch.setattr(jobs, "start", start)
    return found


def test_train_shows_the_equivalent_command_of_a_change(runs):
    app = open_page("train", recipe="sequential")
    app.number_input(key="train/sequential/train.lr").set_value(0.01).run()
    app.multiselect(key="train/sequential/stream.tasks").set_value(["weather", "animals"]).run()
    command, recipe, python = (code.value for code in app.code)
    assert command == "lab run sequential -o 'stream.tasks=[weather, animals]' -o train.lr=0.01"
    assert recipe.startswith("base: sequential") and "lr: 0.01" in recipe and "overrides=" in python
    assert not app.button(key="train_start").disabled


def test_train_says_what_is_wrong_at_once(runs, started):
    app = open_page("train", recipe="l2r")
    app.number_input(key="train/l2r/memory.per_task").set_value(0).run()
    assert "needs stored examples" in texts(app) and app.button(key="train_start").disabled


def test_train_offers_the_options_of_the_chosen_plugins(runs):
    app = open_page("train", recipe="l2r")
    app.selectbox(key="train/l2r/router.name").set_value("uniform").run()
    assert "router.name=uniform" in app.code[0].value
    with pytest.raises(KeyError):
        app.number_input(key="train/l2r/router.temperature")
    app.multiselect(key="train/l2r/methods").set_value(["replay"]).run()
    app.number_input(key="train/l2r/methods.replay.per_step").set_value(4).run()
    assert "-o 'methods.replay={}'" in app.code[0].value and "methods.replay.per_step=4" in app.code[0].value


def test_train_starts_once(runs, started):
    app = open_page("train", recipe="sequential")
    app.number_input(key="train/sequential/seed").set_value(3).run()
    app.button(key="train_start").click().run()
    assert [config["seed"] for config in started] == [3]
    app.switch_page("train.py").run()
    app.button(key="train_start").click().run()
    assert len(started) == 1


def test_train_is_refused_in_a_read_only_lab(runs, started, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("train")
    assert "read-only" in texts(app) and not app.button


def test_pages_that_read_load_no_torch(runs):
    write_run(runs, "a")
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
app = AppTest.from_file({str(MAIN)!r}, default_timeout=60).run()
for page in ("jobs", "compare", "routing", "playground"):
    app.switch_page(page + ".py").run()
    assert not app.exception and app.title
assert "torch" not in sys.modules, "torch"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=MAIN.parents[2])
    assert done.returncode == 0, done.stderr[-600:]
