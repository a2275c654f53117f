"""Streams of one's own data: saved once, found by name, the same as a folder of the same rows, unchanged or refused."""

import json
import subprocess
import sys

import pandas
import pytest
from support.errors import assert_says
from support.run_folders import configuration

import lab
from lab.core import atomic_io
from lab.core.errors import LabError
from lab.data import loading, saved_stream
from lab.data.saved_stream import saved_names
from lab.data.stream import Example
from lab.run_folder.writer import create_run
from lab.store import trash

WORDS = {"tickets": ("crash error", "refund invoice"), "reviews": ("awful bad", "great nice")}


def rows_of(task: str, number: int = 40) -> list[dict]:
    return [{"body": f"{WORDS[task][i % 2]} {i}", "topic": ("no", "yes")[i % 2]} for i in range(number)]


def saved(runs, **options):
    frames = {task: pandas.DataFrame(rows_of(task)) for task in WORDS}
    return lab.stream(frames, text="body", label="topic", runs=runs, **options)


def test_a_stream_is_found_by_its_name_and_is_what_was_given(runs):
    stream = saved(None)
    assert stream.path == runs / "streams" / stream.name and saved(None).name == stream.name
    assert loading.open_stream(stream.name).names() == ["reviews", "tickets"] and saved_names() == [stream.name]
    tasks = loading.load_tasks(stream.name)
    assert [task.digest() for task in tasks] == [task.digest() for task in stream.tasks]
    assert any("no test split" in note for note in tasks[0].notes)
    assert lab.configure("l2r", stream=stream).stream.name == stream.name
    named = saved(None, save_as="mine")
    assert named.name == "mine" and loading.load_tasks("mine")[0].digest() == tasks[0].digest()
    assert lab.configure(stream="mine").stream.name == "mine"


def test_every_example_comes_back(runs):
    """Pairs, free text, labels that are numbers or empty in JSON's eyes, and letters of any script."""
    rows = [{"text": f"“{i}”\u2028\n\t日", "text_pair": None if i % 3 else f"p{i}", "label": i % 2 - 4} for i in range(30)]
    free = [{"text": f"q{i}", "targets": [f"a{i}", "\x0b ok"]} for i in range(30)]
    stream = lab.stream({"pairs": rows, "free": free})
    expected = {task.name: task for task in stream.tasks}
    assert expected["pairs"].labels == ("-4", "-3")
    again = {task.name: task for task in loading.load_tasks(stream.name)}
    for name, task in expected.items():
        assert again[name].digest() == task.digest() and again[name].labels == task.labels
    assert isinstance(again["free"].train[0], Example) and again["free"].train[0].targets[1] == "\x0b ok"


def test_it_shows_itself(runs):
    stream = saved(None)
    preview, counts = stream.preview(3), stream.counts()
    assert [*preview.columns] == ["task", "text", "label"] and len(preview) == 6
    assert counts.groupby("task")[["train", "validation", "test"]].sum().to_numpy().sum() == 80
    for text in (repr(stream), stream._repr_html_()):
        assert all(word in text for word in (stream.name, "tickets", "no, yes", "no test split"))
    hostile = lab.stream([(f"<b>{i}</b>", ("<i>", "&")[i % 2]) for i in range(40)])
    assert "<i>" not in hostile._repr_html_() and "&lt;i&gt;" in hostile._repr_html_()


def test_names_and_content_belong_together(runs):
    saved(None, save_as="mine")
    for name, words in (("mine", ["'mine'", "other data"]), ("builtin", ["shipped"]), ("../up", ["a-z"]), ("x.csv", ["a-z"])):
        with pytest.raises(LabError) as caught:
            lab.stream(rows_of("tickets"), text="body", label="topic", save_as=name)
        assert_says(caught, *words)
    file = runs / "streams" / "mine" / "tickets" / "train.jsonl"
    file.write_text(file.read_text().replace("crash", "smash"))
    with pytest.raises(LabError) as caught:
        loading.load_tasks("mine")
    assert_says(caught, "task 'tickets'", "not as it was saved")


def test_nothing_is_left_of_what_could_not_be_saved(runs, monkeypatch):
    monkeypatch.setattr(atomic_io, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(LabError) as caught:
        saved(None)
    assert_says(caught, "No space left on device")
    assert [*(runs / "streams").iterdir()] == []
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    with pytest.raises(LabError) as caught:
        saved(None)
    assert_says(caught, "read-only")


def test_a_stream_that_no_run_is_on_can_be_deleted(runs):
    first, second = saved(None), saved_stream.save(saved(None).tasks[:1], "second")
    run = create_run(configuration(stream={"name": "both", "sources": [first.name, "builtin"]}), runs, "on-it", "finished")
    for _ in range(2):  # as it is, and in the trash
        with pytest.raises(LabError) as caught:
            saved_stream.delete(["second", first.name])
        assert_says(caught, first.name, "on-it", "lab remove")
        assert saved_names() == sorted([first.name, "second"])
        if run.dir.is_dir():
            trash.move(run)
    with pytest.raises(LabError) as caught:
        saved_stream.delete(["secnd"])
    assert_says(caught, "secnd", "did you mean 'second'")
    trash.empty()
    saved_stream.delete(["second", first.name])
    assert saved_names() == [] == [*(runs / "streams").iterdir()] and second.name == "second"


RESUME = "import sys, lab; print(lab.resume(*sys.argv[1:], progress=False).status)"


def test_from_a_frame_to_a_run_that_is_resumed_elsewhere_and_shares_experts_with_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs, options = tmp_path / "runs", {"backbone": "tiny", "progress": False, "overrides": ["train.epochs=1", "train.lr=0.02"]}
    stream = saved(tmp_path / "others")  # among other runs: it is saved beside the run too
    first = lab.run("uniform", stream=stream, runs=runs, id="first", **options)
    assert first.config["stream"]["name"] == stream.name and saved_names(runs) == [stream.name]
    model, predictions = lab.load(first), first.predictions().set_index("task")
    for task in stream.tasks:
        texts = pandas.Series([example.text for example in task.test])
        assert [*model.predict(texts)] == [*predictions.loc[task.name, "prediction"]]
        assert [*model(texts)["probability"]] == [*predictions.loc[task.name, "probability"]], "to the bit"
    create_run(first.config | {"seed": 1}, runs, "second")
    done = subprocess.run([sys.executable, "-c", RESUME, str(runs / "second")], capture_output=True, text=True, cwd="/")
    assert done.stdout == "finished\n", done.stderr
    assert len(lab.compare("first", "second", runs=runs).numbers) > 0

    for task in WORDS:
        (tmp_path / "folder" / task).mkdir(parents=True)
        rows = [{"text": row["body"], "label": row["topic"]} for row in rows_of(task)]
        (tmp_path / "folder" / task / "data.json").write_text(json.dumps(rows))
    third = lab.run("uniform", stream="./folder", runs=runs, id="third", **options)
    assert third.recorded_scores["matrix"] == first.recorded_scores["matrix"] and third.result()["cost"]["reused_s"] > 0
