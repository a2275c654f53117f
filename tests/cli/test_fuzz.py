"""Whatever a file, a link or a folder holds, it is used or refused in one line: never a traceback, never seconds of work.

Each test tries a few inputs; with -m fuzz 10,000.
"""

import io
import json
import math
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import yaml
from hypothesis import strategies as st
from safetensors.numpy import load_file
from support import saved_experts, toy
from support.fuzzing import as_json, changed, damaged, fuzzed, used_or_refused
from support.run_folders import write_run
from typer.testing import CliRunner

from lab import views
from lab.adapters import library, peft_folder, peft_format
from lab.cli.main import app
from lab.comparison import grid_spec
from lab.config.resolve import RECIPES, configure, parse_override
from lab.core.documents import yaml_text
from lab.data import loading
from lab.lessons import lesson
from lab.run_folder import replay_file
from lab.run_folder.run import Run

SHIPPED = [path.read_bytes() for path in sorted(RECIPES.glob("*.yaml"))]
GRIDS = [path.read_bytes() for path in sorted(grid_spec.GRIDS.glob("*.yaml")) if "builtin" in path.read_text()]
LESSONS = [path.read_bytes() for path in sorted(lesson.SHIPPED.glob("*.yaml"))]
SCHEMES = [{"recipe": "l2r"} | configure(name).to_dict() for name in ("l2r", "replay", "poly")]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


YAML_OF = {
    "recipe": st.one_of(damaged(SHIPPED), changed(SCHEMES).map(lambda value: yaml_text(value).encode())),
    "grid": st.one_of(
        damaged(GRIDS), changed([yaml.safe_load(text) for text in GRIDS]).map(lambda value: yaml_text(value).encode())
    ),
    "lesson": st.one_of(
        damaged(LESSONS), changed([yaml.safe_load(text) for text in LESSONS]).map(lambda v: yaml_text(v).encode())
    ),
}


@fuzzed(YAML_OF["recipe"], fixtures=["place"])
def test_recipes(content, place):
    def use() -> None:
        config = configure(str(written(place / "mine.yaml", content)))
        assert configure(str(written(place / "again.yaml", yaml_text(config.to_dict()).encode()))) == config

    used_or_refused(use)


@fuzzed(YAML_OF["grid"], fixtures=["place"])
def test_grids(content, place):
    used_or_refused(lambda: grid_spec.make_rows(*grid_spec.read(written(place / "grid.yaml", content)), 1, None))


@fuzzed(YAML_OF["lesson"], fixtures=["place"])
def test_lessons(content, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_LESSONS", str(place / "lessons"))
        written(place / "lessons" / "mine.yaml", content)
        used_or_refused(lambda: lesson.read_lesson("mine"))


OPTIONS = [b"train.lr=0.001", b"stream.tasks=[a, b]", b"seed=3", b"router={name: gates, gate: softmax}", b"methods={replay: {}}"]


@fuzzed(st.one_of(damaged(OPTIONS).map(lambda text: text.decode(errors="surrogateescape")), st.text()))
def test_options_and_links(text):
    used_or_refused(lambda: parse_override(text))
    used_or_refused(lambda: configure("l2r", [text]))


@pytest.fixture(scope="module")
def run(place) -> Run:
    return write_run(place / "runs", "good")


FILES = ["run.json", "config.yaml", "matrix.json", "events.jsonl", "notes.json", "launch.json", "routing/after_2.safetensors",
         "predictions/after_2.parquet"]  # fmt: skip


@fuzzed(st.sampled_from(FILES), st.data(), fixtures=["run"])
def test_run_folders(name, data, run):
    """The row of the list, and everything that pages draw from a run."""
    file, bad = run.dir / name, Run(run.dir.with_name("bad"))
    original = file.read_bytes() if file.exists() else b'{"text": "", "tags": ["a"], "starred": true}'
    strategy = damaged([original])
    if name.endswith((".json", ".yaml")):
        strategy = st.one_of(strategy, changed([yaml.safe_load(original)]).map(as_json))
    shutil.rmtree(bad.dir, ignore_errors=True)
    shutil.copytree(run.dir, bad.dir)
    written(bad.dir / name, data.draw(strategy))
    row = views.run_row(bad)
    assert row["status"] != "damaged" or "\n" not in row["reason"].strip()
    if row["status"] == "damaged":
        return
    views.runs_table([run, bad])
    looks = [
        views.losses,
        views.progress,
        views.task_states,
        views.alerts,
        views.log_tail,
        views.accuracy_matrix,
        views.transfer_scores,
    ]
    looks += [
        views.routing_by_task,
        lambda bad: bad.predictions(),
        lambda bad: views.summary_table([run, bad]),
        replay_file.trace,
    ]
    for look in looks:
        with suppress(*views.UNREADABLE):
            look(bad)


@fuzzed(st.data(), fixtures=["run", "place"])
def test_replay_files(data, run, place):
    original = replay_file.trace(run)
    head, *lines = [json.loads(line) for line in original.splitlines()]
    some = changed([head]).map(lambda head: b"\n".join(map(as_json, [head, *lines])))
    others = changed(lines[:4]).map(lambda line: b"\n".join(map(as_json, [head, line, *lines])))
    content = data.draw(st.one_of(damaged([original]), some, others))

    def use() -> None:
        played = replay_file.create(content, place / "played")
        replay_file.play(played, lambda _: None)
        assert views.run_row(played)["status"] in ("finished", "stopped", "damaged")

    shutil.rmtree(place / "played", ignore_errors=True)
    used_or_refused(use)


ROWS = [{"text": f"text {i}", "label": "no" if i % 2 else "yes"} for i in range(8)]
LINES = b"\n".join(map(as_json, ROWS))
TABLE = b"text,label\n" + b"\n".join(f"text {i},{'no' if i % 2 else 'yes'}".encode() for i in range(8))


@pytest.fixture(scope="module")
def tables(place) -> dict[str, bytes]:
    """A table of texts and labels in each format."""
    import gzip

    import pandas

    buffer = io.BytesIO()
    pandas.DataFrame(ROWS).to_parquet(buffer)
    formats = {
        "jsonl": LINES,
        "json": as_json(ROWS),
        "csv": TABLE,
        "tsv": TABLE.replace(b",", b"\t"),
        "parquet": buffer.getvalue(),
    }
    return formats | {"jsonl.gz": gzip.compress(LINES)}


@fuzzed(
    st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "task.json"]), st.data(), fixtures=["tables", "place"]
)
def test_stream_files(form, data, tables, place):
    folder = place / "stream"
    shutil.rmtree(folder, ignore_errors=True)
    spec = {"label_names": ["no", "yes"], "fields": {"text": "text"}, "encoding": "utf-8", "about": "x"}
    kind = "csv" if form == "task.json" else form
    written(folder / "a" / f"train.{kind}", tables[kind] if form == "task.json" else data.draw(damaged([tables[kind]])))
    if form == "task.json":
        written(folder / "a" / form, data.draw(st.one_of(damaged([as_json(spec)]), changed([spec]).map(as_json))))
    used_or_refused(lambda: loading.load_tasks(str(folder)))


WRITTEN = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"]).to_dict()  # every field
WRITTEN = json.loads(json.dumps(WRITTEN, default=list))  # as peft writes them
WITHOUT_EFFECT = [name for name, field in peft_format.Lora.model_fields.items() if field.annotation is Any and not field.metadata]


@fuzzed(st.data(), fixtures=["place"])
def test_adapters(data, place):
    """Read where they lie, described, and brought in as an archive: as peft computes them or not at all."""
    folder = place / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    saved_experts.save(folder, **WRITTEN)
    config, weights = (folder / name for name in (peft_folder.CONFIG, peft_folder.WEIGHTS))
    if data.draw(st.booleans()):
        settings = json.loads(config.read_bytes())
        config.write_bytes(data.draw(st.one_of(damaged([config.read_bytes()]), changed([settings]).map(as_json))))
    else:
        weights.write_bytes(data.draw(damaged([weights.read_bytes()])))
    saved = used_or_refused(lambda: peft_folder.read(folder))
    described = library.describe(library.SavedExpert(folder))
    if saved is not None:
        assert described["kind"] == "lora"
        assert_as_peft_computes(saved)
    files = {f"a/{file.name}": file.read_bytes() for file in (config, weights)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    whole = buffer.getvalue()
    content = data.draw(st.one_of(st.just(whole), damaged([whole])))
    shutil.rmtree(place / "library", ignore_errors=True)
    imported = used_or_refused(lambda: library.import_expert(content, "mine", place / "library"))
    there = {file.relative_to(place / "library"): file.read_bytes() for file in place.glob("library/**/*") if file.is_file()}
    assert there == ({Path(".library/mine", Path(name).name): file for name, file in files.items()} if imported else {})
    assert (imported is None) == (saved is None) or (imported is None and content != whole)


def assert_as_peft_computes(saved: peft_folder.SavedAdapter) -> None:
    """Peft takes the configuration, and scale and factors of every layer are those that these two files say."""
    settings = json.loads((saved.folder / peft_folder.CONFIG).read_bytes())
    theirs = peft.PeftConfig.from_peft_type(**{name: value for name, value in settings.items() if name not in WITHOUT_EFFECT})
    assert isinstance(theirs, peft.LoraConfig) and type(settings.get("r", 8)) is int
    factors = load_file(saved.folder / peft_folder.WEIGHTS)
    layers = {name.removesuffix(".lora_A.weight") for name in factors if name.endswith(".lora_A.weight")}
    assert len(factors) == 2 * len(layers)
    scale = theirs.lora_alpha / (math.sqrt(theirs.r) if theirs.use_rslora else theirs.r)
    assert peft_folder.scale(saved.config) == pytest.approx(scale) and np.isfinite(np.float32(scale))
    for layer in layers:
        a, b = (factors[f"{layer}.lora_{part}.weight"] for part in "AB")
        own = saved.layers()[layer.removeprefix("base_model.model.")]
        assert len(a) == theirs.r and np.array_equal(own["lora_A"], a) and np.array_equal(own["lora_B"], b)


@fuzzed(YAML_OF["recipe"], fixtures=["place"])
def test_exit_codes(content, place):
    """Through the command line, as a user."""
    result = CliRunner().invoke(app, ["validate", str(written(place / "mine.yaml", content))])
    assert result.exit_code in (0, 2) and isinstance(result.exception, SystemExit | None), result.exception
    assert result.exit_code == 0 or result.stderr.splitlines()[-1].startswith("lab: ")


def test_the_toy_stream_is_whole(tmp_path):
    """What the other tests damage can be read."""
    assert [task.name for task in loading.load_tasks(str(toy.folder(tmp_path)))] == ["city", "sea"]
