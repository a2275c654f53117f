"""The store of experts: what runs need stays, whatever else happens; what is damaged is not used."""

import os
import threading

import numpy as np
import pytest
import torch
from support import faults
from support.run_folders import write_run
from typer.testing import CliRunner

from lab.cli.main import app
from lab.run_folder.writer import update_info
from lab.store import experts, trash
from lab.training.expert_cache import Store

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / ".experts")
    for address in (A, B, C):
        store.keep(address, {"w": torch.arange(4.0)}, 1.0)
    return store


def left(store) -> set[str]:
    return {path.stem for path in store.folder.glob("*.safetensors")}


def run_that_needs(runs, name, *addresses, status="finished"):
    run = write_run(runs, name, routed=False, events=False, status=status)
    (run.dir / experts.USES).touch()
    for address in addresses:
        experts.note_use(runs / ".experts", run.dir, address)
        experts.note_use(runs / ".experts", run.dir, address)
    return run


@pytest.mark.parametrize("status", ["finished", "stopped", "queued", "running", "failed"])
def test_what_a_run_needs_stays_in_the_trash_too(store, tmp_path, status):
    run = run_that_needs(tmp_path, "a", A, status=status)
    assert (run.dir / experts.USES).read_text() == f"{A}\n"
    dry = experts.collect(tmp_path, dry_run=True)
    assert {path.stem for path in dry.files} == {B, C} and left(store) == {A, B, C}
    assert experts.collect(tmp_path) == dry and left(store) == {A} and dry.kept == 1
    trash.move(run)
    assert experts.collect(tmp_path).kept == 1
    trash.empty(tmp_path)
    assert len(experts.collect(tmp_path).files) == 1 and left(store) == set()


def test_runs_that_do_not_say_what_they_need(store, tmp_path):
    run = write_run(tmp_path, "old", routed=False)
    os.utime(store.folder / f"{A}.safetensors", (1, 1))  # before that run ended, in January 2026
    for address in (B, C):
        os.utime(store.folder / f"{address}.safetensors", (2e9, 2e9))
    found = experts.collect(tmp_path, dry_run=True)
    assert found.silent == ["old"] and {path.stem for path in found.files} == {B, C}
    update_info(run, status="queued", ended=None)
    assert experts.collect(tmp_path).files == {} and left(store) == {A, B, C}
    (run.dir / "run.json").write_text("{")
    assert experts.collect(tmp_path).files == {} and left(store) == {A, B, C}


@pytest.mark.parametrize("damage", ["truncated", "poisoned"])
def test_a_run_whose_list_is_damaged_goes_on_and_loses_no_expert(damage, store, tmp_path):
    run = run_that_needs(tmp_path, "a", A)
    update_info(run, status="interrupted", ended=None)
    faults.DAMAGE[damage](run.dir / experts.USES)
    experts.note_use(store.folder, run.dir, B)
    experts.note_use(store.folder, run.dir, B)
    assert (run.dir / experts.USES).read_bytes().split(b"\n")[-2:] == [B.encode(), b""]
    assert experts.collect(tmp_path).silent == ["a"] and left(store) == {A, B, C}


def test_a_run_that_begins_meanwhile(store, tmp_path):
    """It notes what it takes under the lock: either before the collection, which then leaves it, or it finds nothing there."""
    run = run_that_needs(tmp_path, "a")
    taken = []
    with experts.lock(store.folder):
        begins = threading.Thread(target=lambda: taken.append(Store(store.folder, run.dir).read(A)))
        begins.start()
        begins.join(0.2)
        assert begins.is_alive() and taken == []
    begins.join()
    assert taken[0] is not None and experts.collect(tmp_path).kept == 1 and left(store) == {A}
    assert Store(store.folder, run.dir).read(B) is None


def test_a_damaged_expert_is_set_aside_and_made_anew(store, tmp_path):
    path = store.folder / f"{A}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert store.read(A) is None and path.with_suffix(".damaged").read_bytes() == bytes(data)
    (store.folder / f"{B}.safetensors").write_bytes(b"x")
    assert store.read(B) is None and store.read("d" * 32) is None
    arrays, about = store.read(C) or ({}, {})
    assert np.array_equal(arrays["w"], np.arange(4.0)) and about["train_s"] == "1.0"
    assert len(experts.collect(tmp_path).files) == 3  # what was set aside, too


def test_command(store, tmp_path, monkeypatch):
    run_that_needs(tmp_path, "a", A)
    words = ["collect", "--runs", str(tmp_path)]
    assert "2 stored experts would be deleted" in CliRunner().invoke(app, [*words, "--dry-run"]).stdout
    monkeypatch.setenv("LAB_READ_ONLY", "1")
    assert CliRunner().invoke(app, words).exit_code == 2 and left(store) == {A, B, C}
    monkeypatch.delenv("LAB_READ_ONLY")
    assert "2 stored experts were deleted" in CliRunner().invoke(app, words).stdout and left(store) == {A}
    assert CliRunner().invoke(app, ["collect", "--runs", str(tmp_path / "none")]).exit_code == 0
