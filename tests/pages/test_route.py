"""Route adapters: experts of the folder of runs, by task, become the configuration of a job."""

import pytest
from support.pages import open_page, texts
from support.run_folders import TASKS

from lab.core.errors import LabError
from lab.jobs import jobs
from lab.training import forecast, ready_adapters


@pytest.fixture
def started(monkeypatch):
    """The configurations that the page hands over: to be looked at, and to be started."""
    given = {"looked": [], "begun": []}
    monkeypatch.setattr(forecast, "ask", given["looked"].append)
    monkeypatch.setattr(jobs, "start", lambda config: given["begun"].append(config) or (_ for _ in ()).throw(LabError("no slot")))
    return given


def test_experts_are_chosen_and_start_as_a_job(runs, played, monkeypatch, started):
    monkeypatch.setenv("LAB_RUNS", str(played))
    monkeypatch.setattr(ready_adapters, "_backbone", lambda saved: "tiny")
    app = open_page("route")
    assert app.button(key="route_start").disabled and "at least one task" in texts(app)
    boxes = [app.selectbox(key=f"route_adapter/{task}") for task in TASKS]
    assert "routed/sea" in boxes[0].options
    boxes[0].set_value("routed/sea")
    boxes[1].set_value("routed/city")
    app.selectbox(key="route_router").set_value("arrow")
    app.run()
    app.button(key="route_start").click().run()
    (config,) = started["begun"]
    assert started["looked"] == [config] and "no slot" in texts(app)
    assert config["protocol"]["name"] == "ready-experts" and config["router"]["name"] == "arrow"
    assert [*config["experts"]["start"]] == config["stream"]["tasks"] == TASKS[:2] and config["backbone"]["name"] == "tiny"
    assert any("lab route" in code.value and "--router arrow" in code.value for code in app.code)


def test_what_cannot_run_is_said(runs, played, monkeypatch, started):
    """By the process that loads adapters, data and model; nothing is started."""

    def refuse(config):
        raise LabError("experts.start.sea: it adapts layer 7")

    monkeypatch.setenv("LAB_RUNS", str(played))
    monkeypatch.setattr(ready_adapters, "_backbone", lambda saved: "tiny")
    monkeypatch.setattr(forecast, "ask", refuse)
    app = open_page("route")
    app.selectbox(key=f"route_adapter/{TASKS[0]}").set_value("routed/sea").run()
    app.button(key="route_start").click().run()
    assert "it adapts layer 7" in texts(app) and not started["begun"]


def test_a_visitor_starts_nothing(runs, monkeypatch):
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    app = open_page("route")
    assert "read-only" in texts(app) and not app.selectbox
