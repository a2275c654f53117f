"""A saved model needs no run: a fresh process computes the same from its folder, and a damaged folder is refused by name."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from support import toy

from lab.core.errors import LabError
from lab.inference.loading import load

TEXTS = ["red wave tide", "blue tram"]
CODE = (
    "import sys, lab; model = lab.load(sys.argv[1]); p = model.predict_proba(sys.argv[2:]);"
    "print(p.to_json(double_precision=15)); print(model.predict(sys.argv[2:]))"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(model, its folder), of a run whose folder is gone."""
    root = tmp_path_factory.mktemp("saved")
    run = toy.recorded(toy.session("l2r", "router.heads=2", of=toy.tasks("sea", "city")), root)
    model = load(run)
    folder = model.save_pretrained(root / "model")
    shutil.rmtree(run.dir)
    return model, folder


def test_a_fresh_process_computes_the_same(saved, tmp_path):
    model, folder = saved
    done = subprocess.run([sys.executable, "-c", CODE, str(folder), *TEXTS], capture_output=True, text=True, cwd=tmp_path)
    table, chosen = done.stdout.splitlines()
    assert table == model.predict_proba(TEXTS).to_json(double_precision=15) and chosen == str(model.predict(TEXTS)), done.stderr
    again = load(folder)
    assert again.route(TEXTS).equals(model.route(TEXTS)) and again.experts == ["sea", "city"]


def test_the_folder(saved):
    _, folder = saved
    front, card = (folder / "README.md").read_text().removeprefix("---\n").split("---\n", 1)
    about = yaml.safe_load(front)
    assert about["library_name"] == "adapter-routing-lab" and "lora" in about["tags"]
    for part in ("## Data", "| sea | no, yes |", "## Results", "## Limits", "## Versions", "## Licence", "router: name"):
        assert part in card
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(json.loads((folder / "manifest.json").read_text())) == files - {"manifest.json"}
    assert "experts/sea/adapter_model.safetensors" in files
    assert json.loads((folder / "model.json").read_text())["backbone"]["name"] == "tiny"


@pytest.mark.parametrize("name", ["experts/sea/adapter_model.safetensors", "router.safetensors", "model.json", "README.md"])
def test_damage_is_refused_by_name(saved, name, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved[1], folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LabError, match=f"{name} is not as it was saved"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(LabError, match=f"{name} is missing"):
        load(folder)


def test_what_is_refused(saved, tmp_path):
    model, folder = saved
    with pytest.raises(LabError, match="exists already and is not empty"):
        model.save_pretrained(folder)
    with pytest.raises(LabError, match="is a saved model, of one moment"):
        load(folder, after=0)
    with pytest.raises(LabError, match="the backbone strings is not the one that run 'r' was trained with"):
        load(folder, backbone="strings")
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "model")


def test_push_to_the_hub(saved, monkeypatch):
    """The client of the hub is a stand-in that keeps what it is told."""
    model, told = saved[0], {}

    class Client:
        def __init__(self, token=None):
            told["token"] = token

        def create_repo(self, repo_id, **options):
            from huggingface_hub import RepoUrl

            told["created"] = repo_id, options
            if repo_id == "none/none":
                raise OSError("no network")
            return RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            told["uploaded"] = repo_id, sorted(path.name for path in folder_path.iterdir()), commit_message

    monkeypatch.setattr("huggingface_hub.HfApi", Client)
    assert model.push_to_hub("me/model", private=True, token="t") == "https://huggingface.co/me/model"
    assert told["token"] == "t" and told["created"] == ("me/model", {"private": True, "exist_ok": True, "repo_type": "model"})
    assert told["uploaded"][0] == "me/model" and "manifest.json" in told["uploaded"][1]
    with pytest.raises(LabError, match="'none/none' cannot be written on the hub: no network"):
        model.push_to_hub("none/none")
