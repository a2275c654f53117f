"""Adapters of the hub, from a cache laid out as the hub's is; there is no network here."""

import shutil

import pytest
from huggingface_hub import constants
from support import saved_experts

from lab.adapters import hub, initial_adapters, peft_folder
from lab.core.errors import LabError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "hub" / "models--acme--sea"
    saved_experts.save(root / "snapshots" / COMMIT)
    for name, revision in (("main", COMMIT), ("v1", COMMIT)):
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / name).write_text(revision)
    return root


@pytest.mark.parametrize("word", ["acme/sea", "acme/sea@v1", f"acme/sea@{COMMIT}"])
def test_a_hub_id_is_its_snapshot_and_is_pinned_with_its_commit(word, cache, tmp_path):
    assert peft_folder.named(word, tmp_path / "runs") == {word: cache / "snapshots" / COMMIT}
    digest = peft_folder.content_digest(cache / "snapshots" / COMMIT)
    pinned = initial_adapters.pinned({"sea": word}, tmp_path / "runs")
    assert pinned == {"sea": f"acme/sea@{COMMIT}#{digest}"} == initial_adapters.pinned(pinned, tmp_path / "runs")
    assert initial_adapters.folder(pinned["sea"]) == cache / "snapshots" / COMMIT


def test_a_folder_and_a_run_come_first(cache, tmp_path):
    local = shutil.copytree(cache / "snapshots" / COMMIT, tmp_path / "acme" / "sea")
    assert initial_adapters.pinned({"sea": "acme/sea"}, tmp_path / "runs")["sea"].startswith(f"{local}#")
    shutil.rmtree(tmp_path / "acme")
    saved_experts.save(tmp_path / "runs" / "acme" / "experts" / "sea")
    assert peft_folder.named("acme/sea", tmp_path / "runs") == {"acme/sea": tmp_path / "runs" / "acme" / "experts" / "sea"}
    with pytest.raises(LabError, match="there is no expert 'acme/see'"):
        peft_folder.named("acme/see", tmp_path / "runs")


def test_what_cannot_be_had_says_what_to_do(cache, tmp_path):
    with pytest.raises(LabError, match=r"experts.start.x: 'acme/none' is not in the cache of the hub.*hf download acme/none"):
        initial_adapters.pinned({"x": "acme/none"}, tmp_path / "runs")
    (cache / "snapshots" / COMMIT / peft_folder.WEIGHTS).unlink()
    with pytest.raises(LabError, match=f"holds no {peft_folder.WEIGHTS}"):
        peft_folder.named("acme/sea", tmp_path / "runs")


def test_hub_ids_by_name():
    assert hub.id_of(f"/home/x/hub/models--acme--tiny-bert/snapshots/{COMMIT}") == "acme/tiny-bert"
    assert hub.id_of("acme/tiny-bert") == "acme/tiny-bert" and hub.id_of("minilm") is None and hub.id_of("/a/b") is None
