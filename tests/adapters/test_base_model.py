"""Whether an adapter belongs to a backbone: by weights, not by the last part of a path."""

import pytest
from huggingface_hub import constants

from lab.adapters.base_model import Base, compare
from lab.core.errors import LabError


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def folder(path, weights: str = "one"):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text(weights)
    return str(path)


def snapshot(root, weights: str = "one"):
    return folder(root / "models--acme--tiny-bert" / "snapshots" / ("a" * 40), weights)


def test_the_digest_decides_whatever_the_names():
    assert compare(Base("x/y", "1"), Base("/elsewhere", "1")) == ""
    with pytest.raises(LabError, match="weights are not those of x/y"):
        compare(Base("x/y", "1"), Base("x/y", "2"))


def test_hub_ids_snapshots_and_aliases(tmp_path):
    place = snapshot(tmp_path)
    for theirs, ours in (("acme/tiny-bert", place), (place, "acme/tiny-bert"), ("acme/tiny-bert", "acme/tiny-bert")):
        assert compare(Base(theirs), Base(ours)) == ""
    assert compare(Base("/x/hub/models--acme--tiny-bert/snapshots/" + "b" * 40), Base(place)) == ""
    minilm = Base("minilm", "", ("sentence-transformers/all-MiniLM-L6-v2", place))
    assert compare(Base("sentence-transformers/all-MiniLM-L6-v2"), minilm) == compare(Base("minilm"), minilm) == ""
    with pytest.raises(LabError, match="acme/other, which is not here"):
        compare(Base("acme/other"), Base(place))


@pytest.mark.parametrize("theirs", ["/somewhere/A/checkpoint-500", "A/checkpoint-500", "other/checkpoint-500"])
def test_a_name_alone_is_not_enough(theirs, tmp_path):
    ours = folder(tmp_path / "B" / "checkpoint-500")
    with pytest.raises(LabError, match=f"{theirs}, which is not here to be compared.*base_model_name_or_path"):
        compare(Base(theirs), Base(ours))


def test_folders_are_compared_by_their_files(tmp_path):
    ours = folder(tmp_path / "B" / "checkpoint-500")
    assert compare(Base(folder(tmp_path / "A" / "copy")), Base(ours)) == ""
    with pytest.raises(LabError, match="weights are not those"):
        compare(Base(folder(tmp_path / "A" / "checkpoint-500", "two")), Base(ours))
    assert compare(Base("B/checkpoint-500"), Base(ours)) == ""


def test_a_hub_id_in_the_cache_is_compared_by_its_files(tmp_path):
    snapshot(tmp_path / "hub")
    (tmp_path / "hub" / "models--acme--tiny-bert" / "refs").mkdir()
    (tmp_path / "hub" / "models--acme--tiny-bert" / "refs" / "main").write_text("a" * 40)
    assert compare(Base("acme/tiny-bert"), Base(folder(tmp_path / "copy"))) == ""
    with pytest.raises(LabError, match="weights are not those"):
        compare(Base("acme/tiny-bert"), Base(folder(tmp_path / "tiny-bert", "two")))


def test_what_was_not_compared_is_said(tmp_path):
    ours = Base(folder(tmp_path / "models" / "bert"))
    assert "only the name was compared" in compare(Base("bert"), ours)
    assert "does not say" in compare(Base(""), ours)
