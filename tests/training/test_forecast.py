"""Before a run: its work is what progress counts, a forecast is work over measured speed, the look sees what training does."""

import socket

import pytest
from support.run_folders import write_run

from lab import api
from lab.config.resolve import configure
from lab.config.schema import RunConfig
from lab.core import atomic_io, registry
from lab.core.errors import LabError
from lab.data import loading
from lab.models.pretrained import HashTokenizer
from lab.run_folder.run import all_runs
from lab.run_folder.writer import append_event, update_info
from lab.training import forecast
from lab.training.workload import planned_work, sizes_of

TASKS = [{"train": 10, "validation": 2, "test": 4, "classes": 2}, {"train": 6, "validation": 3, "test": 5, "classes": 4}]
SMALL = [
    "backbone.name=tiny",
    "stream.tasks=[news_topic, question_type]",
    "stream.max_train=16",
    "stream.max_test=10",
    "stream.max_validation=5",
    "train.epochs=1",
]


def units(config: RunConfig) -> dict[tuple[int, str], float]:
    """Work of every planned stage by task and phase."""
    plan = registry.protocols.build(config.protocol).plan(TASKS)
    return {(task, stage.phase): stage.work(config, TASKS, task) for task, stage in plan}


def test_work_by_hand():
    config = configure("l2r", ["train.epochs=2", "router_training.steps=7", "router_training.batch_size=4"])
    work = units(config)
    assert [work[0, "train"], work[1, "train"], work[1, "memory"]] == [60, 36, 84]
    assert [work[t, "evaluate"] for t in (-1, 0, 1)] == [9, 4, 9]
    assert work[2, "evaluate"] == 5 + 9 and planned_work(config, TASKS) == 60 + 36 + 2 * 84 + 9 + 4 + 9 + 14
    assert units(configure("sequential"))[2, "evaluate"] == 5  # one expert: no oracle
    budgets = ([], ["memory.per_task=7"], ["memory.per_task=0", "memory.total=12"], ["memory.per_task=0", "memory.per_class=3"])
    fixed = [units(configure("uniform", options)) for options in budgets]
    assert [[work[t, "memory"] for t in (0, 1)] for work in fixed] == [[10, 16], [7, 13], [10, 12], [6, 12]]


def test_examples_that_methods_bring_are_work():
    given = ["train.epochs=2", "train.batch_size=4"]
    replayed = [*given, "memory.per_task=5"]
    expected = {
        "multitask": (given, 6 + 10),
        "replay": (replayed, 6 + 2 * 5),
        "derpp": (replayed, 6 + 2 * 2 * 5),
        "agem": ([*replayed, "methods.agem.per_step=3"], 6 + 2 * 3),
        "lwf": (given, 6),
    }
    for recipe, (options, examples) in expected.items():
        work = units(configure(recipe, options))
        assert [work[task, "train"] for task in (0, 1)] == [3 * 2 * 10, 3 * 2 * examples], recipe


def measured(runs, name, seconds, total, recipe="l2r", host=None, **backbone):
    """A finished run that took so long for so much work."""
    run = write_run(runs, name, recipe, events=False)
    append_event(run, {"kind": "Evaluated", "after": -1, "task": 0, "score": 0.1, "examples": 20, "progress": 20 / total})
    config = {name: value for name, value in run.config.items()} | {
        "backbone": {"name": "tiny", "max_length": 128, "device": "cpu"}
    }
    atomic_io.write_yaml(run.dir / "config.yaml", config | {"backbone": config["backbone"] | backbone})
    update_info(
        run,
        host=host or socket.gethostname(),
        started="2026-01-31T10:00:00+00:00",
        ended=f"2026-01-31T10:00:{seconds:02}+00:00",
        cost={"train_s": 1.0, "eval_s": 1.0, "reused_s": 0.0, "peak_memory_bytes": seconds * 1000},
    )
    return run


def test_forecast_goes_by_the_runs_most_alike(runs):
    config = configure("l2r", ["backbone.name=tiny"])
    total = planned_work(config, TASKS)
    first = forecast.forecast(config, TASKS, all_runs(runs))
    assert first.seconds == total / forecast.DEFAULT["tiny"][0] and not first.measured
    for number, seconds in enumerate((10, 20, 40)):
        measured(runs, f"r{number}", seconds, 400)
    measured(runs, "elsewhere", 1, 400, host="another-machine"), measured(runs, "long", 1, 400, max_length=512)
    measured(runs, "gpu", 1, 400, device="cuda")
    update_info(measured(runs, "played", 1, 400), replay={"run": "r0", "speed": 1.0})
    found = forecast.forecast(
        config.model_copy(update={"backbone": config.backbone.model_copy(update={"device": "cpu"})}), TASKS, all_runs(runs)
    )
    assert found.seconds == pytest.approx(total / 20) and found.peak_bytes == 40_000 and found.measured
    assert "3 earlier runs with tiny and this stream on this machine" in found.source
    unknown = forecast.forecast(configure("l2r", ["backbone.name=owner/model"]), TASKS, all_runs(runs))
    assert unknown.seconds is None and "owner/model" in unknown.source


def test_speed_counts_time_that_was_saved_and_time_before_a_resume(runs):
    run = measured(runs, "a", 10, 400)
    assert forecast.speed(run)[0] == pytest.approx(40)
    update_info(run, cost=run.info["cost"] | {"reused_s": 10.0})
    assert forecast.speed(run)[0] == pytest.approx(20)
    update_info(run, cost=run.info["cost"] | {"train_s": 70.0, "eval_s": 10.0})
    assert forecast.speed(run)[0] == pytest.approx(5)
    assert forecast.speed(write_run(runs, "b")) is None  # it recorded no evaluation before training


def test_the_look_agrees_with_the_run(runs):
    config = configure("l2r", [*SMALL, "memory.per_task=8", "router_training.steps=2"])
    seen = forecast.ask(config.to_dict())
    sizes = sizes_of(loading.tasks_of(config.stream, config.seed))
    assert sizes == [{name: task[name] for name in ("train", "validation", "test", "classes")} for task in seen["tasks"]]
    run = api.run(config, runs=runs, progress=False)
    assert run.info["cost"]["trainable_parameters"] == seen["trainable_parameters"]
    words = [word for word, id in seen["tasks"][0]["examples"][0]["tokens"]]
    ids = [id for word, id in seen["tasks"][0]["examples"][0]["tokens"]]
    assert words[0] == "[first]" and ids == [1, *HashTokenizer().encode(" ".join(words[1:]))]
    assert seen["tasks"][0]["name"] == "news_topic" and len(seen["tasks"][0]["examples"]) == forecast.SHOWN
    first = next(run.events("Evaluated"))
    assert first["progress"] == pytest.approx(first["examples"] / planned_work(config, sizes))
    assert forecast.forecast(config, sizes, all_runs(runs)).measured


def test_the_look_says_why_it_cannot():
    config = configure("l2r", SMALL).to_dict()
    with pytest.raises(LabError, match="no-such-task"):
        forecast.ask(config | {"stream": config["stream"] | {"tasks": ["no-such-task"]}})


def test_warnings_name_what_is_odd():
    config = configure("l2r", ["scenario=task"])
    slow = forecast.Forecast(7200.0, 1e9, "", True)
    task = {"name": "a", "labels": ["x", "y"], "train": 8, "at_limit": 0.25}
    found = forecast.warnings(config, slow, TASKS[:1], {"limit": 64, "tasks": [task]})
    for part in (
        "true task is given",
        "2.0 hours",
        "nothing to forget",
        "25% of the texts reach the limit of 64",
        "4.0 training",
    ):
        assert sum(part in text for text in found) == 1
    assert forecast.warnings(configure("l2r"), None, TASKS, None) == []
