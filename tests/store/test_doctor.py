"""The doctor names every kind of damage with its remedy, mends what can be mended, and deletes nothing."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from support.run_folders import write_run
from typer.testing import CliRunner

from lab.cli.main import app
from lab.core import atomic_io, verified_files
from lab.run_folder.run import FORMAT, Run
from lab.run_folder.writer import update_info
from lab.store import doctor, experts, index, migrations, trash
from lab.training.expert_cache import Store

SEALED = ("config.yaml", "matrix.json", "predictions/after_0.parquet")


@pytest.fixture
def run(tmp_path):
    """A finished run with manifest, second copies and two saved states."""
    run = write_run(tmp_path, "a", routed=False)
    copies = run.dir / "checkpoint" / "copies"
    final = {name: verified_files.copy(run.dir / name, copies) for name in SEALED}
    atomic_io.replace_bytes(run.dir / "checkpoint" / "events.jsonl", (run.dir / "events.jsonl").read_bytes())
    for number in ("1", "2"):
        state = {"final": final}
        verified_files.write(
            run.dir / "checkpoint" / number, {"session.json": json.dumps(state).encode(), "tensors.safetensors": b"x"}
        )
    atomic_io.write_json(run.dir / "manifest.json", final | {"events.jsonl": atomic_io.sha256(run.dir / "events.jsonl")})
    (run.dir / experts.USES).touch()
    return run


@pytest.fixture(autouse=True)
def packages_are_right(monkeypatch):
    monkeypatch.setattr(doctor, "_packages", lambda: iter(()))


def files(folder: Path) -> dict[bytes, str]:
    """Contents, each with the path it was last seen under."""
    return {
        path.read_bytes(): path.name for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", ".jobs.lock")
    }


def sentences(folder: Path, **how: bool) -> list[str]:
    return [finding.sentence for finding in doctor.examine(folder, **how)]


def call(*words: object):
    return CliRunner().invoke(app, [*map(str, words)])


def damaged(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def litter(run: Run) -> None:
    (run.dir / ".matrix.json.4194300.tmp").write_text("half")


def lease(run: Run) -> None:
    import socket

    atomic_io.write_json(run.dir / "lease.json", {"pid": 1, "process_started": 1.0, "host": socket.gethostname()})


def stored(run: Run) -> None:
    store = Store(run.dir.parent / ".experts")
    store.keep("a" * 32, {"w": torch.ones(2)}, 1.0)
    damaged(store.folder / f"{'a' * 32}.safetensors")
    (store.folder / "mine.safetensors").write_text("mine")


# what is done to the run, words of the findings, whether there is damage, and whether it can be mended
KINDS = {
    "a flipped byte": (lambda run: damaged(run.dir / SEALED[2]), ["predictions/after_0.parquet is not as it was"], True, True),
    "a file is gone": (lambda run: (run.dir / SEALED[2]).unlink(), ["predictions/after_0.parquet is missing"], True, True),
    "settings changed": (lambda run: damaged(run.dir / "config.yaml"), ["config.yaml is not as it was"], True, True),
    "scores cut": (lambda run: (run.dir / "matrix.json").write_text("{"), ["matrix.json is not as it was"], True, True),
    "events cut": (lambda run: (run.dir / "events.jsonl").write_text(""), ["events.jsonl is not as it was"], True, True),
    "a state": (lambda run: damaged(run.dir / "checkpoint" / "2" / "tensors.safetensors"), ["checkpoint 2: tensors"], True, True),
    "run.json": (lambda run: (run.dir / "run.json").write_text("{"), ["is damaged: run.json cannot be read"], True, False),
    "without a copy": (
        lambda run: [path.unlink() for path in (run.dir / SEALED[2], *(run.dir / "checkpoint" / "copies").iterdir())],
        ["after_0.parquet is missing; what was read from it cannot be trusted"],
        True,
        False,
    ),
    "lost": (lambda run: update_info(run, status="running", pid=1, process_started=1.0), ["is lost.*lab resume a"], False, False),
    "litter": (litter, [r"file a/.matrix.json.4194300.tmp: is left of a process"], False, True),
    "lease": (lease, ["the lease of a process that is gone"], False, True),
    "format": (lambda run: update_info(run, format=0), ["is of format 0"], False, True),
    "index": (lambda run: (run.dir.parent / index.FILE).write_text("{"), ["index of runs: cannot be read"], False, True),
    "trash": (lambda run: (run.dir.parent / ".trash" / "x").mkdir(parents=True), ["trash x: is no run"], False, True),
    "experts": (stored, ["stored expert aaa.*SHA-256 differs", "stored expert mine.safetensors: has a name"], True, True),
    "open to all": (lambda run: run.dir.parent.chmod(0o777), ["everybody on this machine can change it; chmod o-w"], True, False),
}


def test_a_sound_folder(run, tmp_path):
    assert sentences(tmp_path) == [] == sentences(tmp_path, whole=False) == sentences(tmp_path / "none")
    done = call("doctor", "--runs", tmp_path)
    assert (done.exit_code, done.stdout) == (0, "sound\n")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_mended_and_nothing_is_deleted(run, tmp_path, kind):
    spoil, words, damage, mended = KINDS[kind]
    spoil(run)
    index.forget()
    said = sentences(tmp_path)
    assert len(said) == len(words) and all(re.search(word, line) for word, line in zip(words, said, strict=True)), said
    before, (found, *_) = files(tmp_path), doctor.examine(tmp_path)
    assert call("doctor", "--runs", tmp_path).exit_code == int(damage) and files(tmp_path).keys() >= before.keys() - set()
    done = call("doctor", "--repair", "--runs", tmp_path, "--json")
    answer = json.loads(done.stdout)
    assert done.exit_code == int(damage and not mended) and answer["sound"] == (not damage or mended)
    assert [finding["mended"] for finding in answer["findings"]] == [mended] * len(words)
    assert sentences(tmp_path) == ([] if mended else said), found
    kept = files(tmp_path).keys()
    lost = {data for data in before if data not in kept}
    assert not lost or kind in ("format", "a flipped byte", "settings changed", "scores cut", "events cut"), lost


def test_a_run_somebody_works_on_is_left_alone(run, tmp_path):
    update_info(run, status="running", pid=os.getpid(), process_started=__import__("psutil").Process().create_time())
    damaged(run.dir / SEALED[2])
    litter(run)
    assert sentences(tmp_path) == []


def test_a_run_of_the_first_version_is_brought_to_the_present_format(tmp_path):
    run = write_run(tmp_path, "old", routed=False)
    text = (run.dir / "config.yaml").read_text()
    update_info(run, format=0)
    before = run.result()
    migrations.migrate(run)
    migrations.migrate(run)
    assert run.info["format"] == FORMAT and Run(run.dir).result() == before
    assert (run.dir / "former" / "config.yaml").read_text() == text
    update_info(run, format=FORMAT + 1)
    assert "written by a newer version" in sentences(tmp_path)[0]
    assert set(migrations.STEPS) == set(range(FORMAT))


def test_quick_look_reads_no_digests(run, tmp_path):
    damaged(run.dir / SEALED[2])
    assert sentences(tmp_path, whole=False) == [] and len(sentences(tmp_path)) == 1


def test_versions_of_packages(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda name: ["transformers>=99", "no-such-package>=1", "numpy>=1", "x; extra == 'y'"]
    )
    old, absent = doctor._packages()
    assert "CVE-2026-9856" in old.what and old.remedy == "pip install 'transformers>=99'" and "not installed" in absent.what


def test_lower_bounds_are_above_the_known_holes():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    bounds = {Requirement(line).name: Requirement(line).specifier for line in project["dependencies"]}
    for name, below in doctor.HOLES.items():
        assert not bounds[name].contains(f"{below.rpartition(' ')[2]}.dev0", prereleases=True), name
    assert any(bound.operator == "<" for bound in bounds["streamlit"])
    assert trash.FOLDER != doctor.ASIDE
