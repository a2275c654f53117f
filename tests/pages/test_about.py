"""About: formulas with the numbers of a run, the self-check, the map of recipes."""

import streamlit
from support.pages import open_page, texts
from support.run_folders import FORGETS, write_run

from lab.cli.list import listing
from lab.core.errors import LabError
from lab.pages import system


def test_the_glossary_fills_the_formulas_with_the_numbers_of_the_run(runs):
    run = write_run(runs, "a", "sequential", FORGETS, routed=False)
    app = open_page("about", about_run="a")
    shown = "\n".join(element.value for element in app.latex)
    assert rf"{run.result()['forgetting']:.3f}" in shown and "(0.910 - 0.320)" in shown
    assert "needs single-task scores" in texts(app) and not app.error


def test_the_self_check_names_what_fails_and_what_is_damaged(runs, monkeypatch):
    run = write_run(runs, "a", "sequential", FORGETS, routed=False)
    checks = [system.Check("Disk has room", False, "0.1 GB free"), system.Check("Runs can be written", True, "here")]
    monkeypatch.setattr(system, "self_check", lambda folder: checks)
    (write_run(runs, "broken", routed=False).dir / "matrix.json").write_text("{")
    (run.dir / "manifest.json").write_text('{"matrix.json": "0"}')
    app = open_page("about", about_part="Self-check")
    assert "run 'a': matrix.json is not as it was written" not in texts(app) and not app.latex
    app.button(key="about_doctor").click().run()
    assert "run 'a': matrix.json is not as it was written" in texts(app)
    app.button(key="about_check").click().run()
    assert "run 'broken': is damaged: matrix.json cannot be read" in texts(app)
    assert "0.1 GB free" in texts(app) and "does not work here" in app.error[0].value


def test_the_map_of_recipes_is_that_of_the_command_line(runs, monkeypatch):
    app = open_page("about", about_words="Recipes")
    table = app.dataframe[0].value
    assert table.to_dict("records") == listing("recipes") and "l2r" in set(table["name"])
    assert "axes of modular systems" in app.dataframe[0].proto.alt and not app.latex
    monkeypatch.setattr(system, "recipes", lambda: (_ for _ in ()).throw(LabError("no <b>torch</b>")))
    streamlit.cache_data.clear()
    app = open_page("about", about_words="Recipes")
    assert "no <b>torch</b>" in texts(app) and not app.dataframe
