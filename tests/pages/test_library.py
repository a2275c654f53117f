"""Library: experts, their similarity, arithmetic, notes and deletion."""

import shutil

import numpy as np
import pytest
from support.pages import chart, heatmap, open_page, texts
from support.run_folders import TASKS, write_run
from support.saved_experts import save

from lab.adapters import library
from lab.data import loading


@pytest.fixture
def shelf(runs):
    """A run with two LoRA experts."""
    run = write_run(runs, "a", texts=["A <b>tagged</b> text"])
    for seed, name in enumerate(TASKS[:2]):
        save(run.dir / "experts" / name, seed=seed)
    return run


def test_library_shows_experts_and_how_alike_they_are(shelf):
    app = open_page("library")
    table = app.dataframe[0].value.set_index("expert")
    assert table.loc["animals", "learned"] == 0.9 and table.loc["animals", "now"] == 0.86
    found = library.experts([shelf])
    assert table.loc["weather", "norm"] == library.describe(found[1])["norm"]
    np.testing.assert_allclose(heatmap(app, 0), library.similarity(found), rtol=1e-5)
    app.segmented_control(key="lib_side").set_value("input").run()
    np.testing.assert_allclose(heatmap(app, 0), library.similarity(found, "input"), rtol=1e-5)
    assert any("0.900 when it was learned" in code.value for code in app.code)
    app.multiselect(key="lib_pick").set_value(["a/animals"]).run()
    assert "at least two" in texts(app) and not app.exception


def test_library_puts_experts_together_and_keeps_the_result(shelf, runs):
    app, found = open_page("library"), library.experts([shelf])
    app.segmented_control(key="lib_do").set_value("add").run()
    one, two = (expert.layers() for expert in found)
    for weight in (1.0, -2.0):
        app.number_input(key="lib_weight_2").set_value(weight).run()
        for place, name in enumerate(one):
            x, y = (layers[name]["lora_B"] @ layers[name]["lora_A"] for layers in (one, two))
            sum_ = x + weight * y
            cosines = [np.sum(sum_ * other) / np.linalg.norm(sum_) / np.linalg.norm(other) for other in (x, y)]
            np.testing.assert_allclose(chart(app, "lib_alignment")[place], cosines, rtol=1e-4)
    assert app.metric[0].value == "6" and any("how='cat')" in code.value for code in app.code)
    assert any(
        f"lab compose add a/animals a/weather --weights 1,-2 --how cat --out FOLDER --runs {runs}" in code.value
        for code in app.code
    )
    app.segmented_control(key="lib_do").set_value("negate").run()
    assert "negate takes 1 expert and" in texts(app) and chart(app, "lib_alignment") is None
    shutil.copytree(found[0].folder, found[0].folder.with_name("two words"))
    app.run()
    app.multiselect(key="lib_parts").set_value(["a/two words"]).run()
    assert any(f"lab compose negate 'a/two words' --out FOLDER --runs {runs}" in code.value for code in app.code)
    app.multiselect(key="lib_parts").set_value(["a/weather"]).run()
    np.testing.assert_allclose(chart(app, "lib_alignment"), -1, rtol=1e-6)
    app.text_input(key="lib_name").set_value("anti")
    next(button for button in app.button if button.label == "Keep in the library").click().run()
    assert not app.error and "anti" in list(app.dataframe[0].value["expert"])
    (kept,) = library.experts([])
    for name, layer in kept.layers().items():
        np.testing.assert_allclose(layer["lora_B"] @ layer["lora_A"], -two[name]["lora_B"] @ two[name]["lora_A"], rtol=1e-5)
    assert "Made by `lab compose negate a/weather` of:" in library.card(kept)


def test_library_tries_a_composed_expert_beside_its_parts(model, played, monkeypatch):
    """On a click: accuracies are those of the model; nothing is computed before, after another choice, or in read-only mode."""
    from support import toy

    from lab.adapters import arithmetic

    monkeypatch.setattr(loading, "load_tasks", lambda name, parts, tasks, *rest, **limits: toy.tasks(*tasks))
    parts = ["routed/sea", "routed/city"]
    app = open_page("library", lib_do="add", lib_parts=parts)
    assert app.multiselect(key="lib_try").value == ["sea", "city"] and "lib_effect" not in str(app)
    app.button(key="lib_measure").click().run()
    assert not app.exception, app.exception[0].message
    table = app.dataframe[1].value
    adapters = [arithmetic.read(played / "routed" / "experts" / name, f"routed/{name}") for name in ("sea", "city")]
    for name, adapter in {
        "combined": arithmetic.add(adapters, [1.0, 1.0], "cat"),
        **dict(zip(parts, adapters, strict=True)),
    }.items():
        right = [model.accuracy(adapter, t, task.test) for t, task in enumerate(toy.tasks("sea", "city"))]
        assert table[name].tolist() == pytest.approx(right)
    app.number_input(key="lib_weight_2").set_value(3.0).run()
    assert len(app.dataframe) == 2
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert "nothing is computed here" in texts(open_page("library", lib_do="add", lib_parts=parts))


def test_library_deletes_a_run_after_asking_and_no_other(shelf, runs, monkeypatch):
    """The button opens the question, one answer keeps the run, the other removes it with its experts; not while it trains."""
    other = write_run(runs, "b")
    app = open_page("library", lib_run="a")
    app.button(key="lib_delete").click().run()
    assert shelf.dir.exists() and "**a** (" in texts(app)
    app.button(key="trash_no").click().run()
    assert shelf.dir.exists()
    app.button(key="lib_delete").click().run()
    app.button(key="trash_yes").click().run()
    assert not shelf.dir.exists() and other.status == "finished" and not app.exception
    assert "There are no experts" in texts(app) and list(app.dataframe[0].value["run"]) == ["b"]
    monkeypatch.setattr("lab.run_folder.run.process_alive", lambda pid, started: True)
    write_run(runs, "live", status="running")
    assert open_page("library", lib_run="live").button(key="lib_delete").disabled
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert open_page("library", lib_run="b").button(key="lib_delete").disabled


def test_library_writes_about_the_other_runs_beside_a_damaged_one(shelf, runs):
    (write_run(runs, "noted").dir / "notes.json").write_text("{")
    (write_run(runs, "scored").dir / "matrix.json").write_text("{")
    app = open_page("library")
    assert app.selectbox(key="lib_run").options == ["a"] and not app.error


def test_library_keeps_notes_and_hides_archived_runs_elsewhere(shelf, runs):
    write_run(runs, "b")
    app = open_page("library", lib_run="a")
    app.toggle[0].set_value(True), app.toggle[1].set_value(True)
    app.text_area[0].set_value("keep <i>this</i>")
    next(button for button in app.button if button.label == "Save").click().run()
    assert shelf.notes == {"name": "", "text": "keep <i>this</i>", "tags": [], "starred": True, "archived": True}
    assert open_page("library", lib_run="a").text_area[0].value == "keep <i>this</i>"
    assert open_page("compare").multiselect(key="runs").options == ["b"]


def test_library_is_read_only_on_the_server_too(shelf, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("library")
    assert "Import" not in [button.label for button in app.button] and "not imported" in texts(app)
    assert all(button.disabled for button in app.button) and app.text_area[0].disabled
