"""Plug-ins outside of the package: files of the folders in LAB_PLUGINS and entry points, under the rules of shipped ones."""

import os
from importlib import metadata

import pytest
from support import toy

import lab
from lab.config.resolve import configure, recipe_names, recipes
from lab.core import registry
from lab.core.errors import LabError
from lab.routers.uniform import Uniform

ROUTER = '''
from pydantic import Field
from torch import ones

from lab.routers.uniform import Uniform


class MineOptions(Uniform.Options):
    name: str = "{name}"
    sharpness: float = Field(1.0, gt=0, description="an option of a plug-in of one's own")


class Mine(Uniform):
    """A router of one's own."""

    name = "{name}"
    {kind}
    Options = MineOptions
'''


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two empty folders of plug-ins."""
    chosen = [tmp_path / "first", tmp_path / "second"]
    for folder in chosen:
        folder.mkdir()
    monkeypatch.setenv(registry.PLUGINS, os.pathsep.join(map(str, chosen)))
    return chosen


@pytest.fixture
def installed(monkeypatch):
    """Entry points by group, as if a package with them was installed."""
    points: dict[str, list[metadata.EntryPoint]] = {}
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints(points.get(group, [])))
    registry._entry_points.cache_clear()
    yield points
    registry._entry_points.cache_clear()


def write(file, name: str, kind: str = "") -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(ROUTER.format(name=name, kind=kind))


@pytest.mark.parametrize("place", ["routers/my_router.py", "my_router.py"])
def test_a_file_outside_of_the_package_is_a_plugin(place, folders):
    write(folders[1] / place, "my-router", 'kind = "router"')
    assert "my-router" in registry.routers.names() and "my-router" not in registry.experts.names()
    assert registry.routers.get("my-router").about() == "A router of one's own."
    assert registry.routers.get("my-router") is registry.routers.get("my-router")
    config = configure("custom", ["router=my-router", "router.sharpness=2"])
    assert config.router.sharpness == 2
    with pytest.raises(LabError, match="did you mean 'sharpness'"):
        configure("custom", ["router=my-router", "router.sharpnes=2"])
    with pytest.raises(LabError, match="did you mean 'my-router'"):
        configure("custom", ["router=my-ruoter"])


def test_it_trains(folders):
    write(folders[0] / "routers" / "mine.py", "mine")
    session = toy.session("sequential", "router=mine")
    list(session.train())
    assert session.learner.router.name == "mine" and len(session.scores.matrix) == 2


def test_files_that_are_no_plugins_are_left_alone(folders):
    before = registry.routers.names()
    for name in ("_shared.py", "base.py", "notes.txt"):
        write(folders[0] / "routers" / name, "x", 'kind = "router"')
        write(folders[0] / name, "x", 'kind = "router"')
    write(folders[0] / "of_no_kind.py", "of-no-kind")
    assert registry.routers.names() == before


@pytest.mark.parametrize("content", ["import nothing_like_it", "def (", "class Other:\n    name = 'other'\n"])
def test_a_broken_file_is_reported_only_when_asked_for(content, folders):
    (folders[0] / "routers").mkdir()
    (folders[0] / "routers" / "mine.py").write_text(content)
    assert "mine" in registry.routers.names() and configure("l2r").router.name
    for _ in range(2):
        with pytest.raises(LabError, match=r"router 'mine' is broken: .*mine\.py"):
            registry.routers.get("mine")


def test_a_name_that_is_taken_is_refused(folders):
    write(folders[0] / "routers" / "uniform.py", "uniform")
    write(folders[0] / "routers" / "mine.py", "mine")
    write(folders[1] / "routers" / "mine.py", "mine")
    assert registry.routers.names().count("uniform") == 1 and configure("l2r").router.name
    with pytest.raises(LabError, match=r"router 'uniform' is defined in lab\.routers\.uniform and in .*uniform\.py: rename"):
        registry.routers.get("uniform")
    with pytest.raises(LabError, match=r"router 'mine' is defined in .*first.* and in .*second.*: rename all but one"):
        registry.routers.get("mine")


def test_an_entry_point_is_a_plugin(installed):
    def offer(name: str, value: str, group: str = "lab.routers") -> None:
        installed.setdefault(group, []).append(metadata.EntryPoint(name, value, group))
        registry._entry_points.cache_clear()

    offer("theirs", f"{__name__}:Theirs")
    offer("gone", "no_such_package:Router")
    offer("wrong", f"{__name__}:Theirs")
    assert {"theirs", "gone", "wrong"} <= set(registry.routers.names()) and "theirs" not in registry.methods.names()
    assert registry.routers.get("theirs") is Theirs
    with pytest.raises(LabError, match="'gone' is broken: importing no_such_package:Router of an installed"):
        registry.routers.get("gone")
    with pytest.raises(LabError, match="defines no class with name = 'wrong'"):
        registry.routers.get("wrong")
    offer("uniform", f"{__name__}:Theirs")
    with pytest.raises(LabError, match=r"defined in lab\.routers\.uniform and in .* of an installed package"):
        registry.routers.get("uniform")


class Theirs(Uniform):
    """A router of an installed package."""

    name = "theirs"


def test_recipes_of_ones_own(folders):
    (folders[0] / "recipes").mkdir()
    (folders[0] / "recipes" / "mine.yaml").write_text("base: l2r\nabout: my recipe\ntrain: {lr: 0.5}\n")
    assert "mine" in recipe_names() and configure("mine").train.lr == 0.5 and configure("mine").recipe == "mine"
    assert any(recipe["name"] == "mine" and recipe["about"] == "my recipe" for recipe in recipes())
    with pytest.raises(LabError, match="did you mean 'mine'"):
        configure("mien")
    (folders[1] / "recipes").mkdir()
    (folders[1] / "recipes" / "l2r.yaml").write_text("train: {lr: 0.5}\n")
    with pytest.raises(LabError, match=r"recipe 'l2r' is defined in .*second.*: rename"):
        configure("l2r")
    assert configure("sequential").recipe == "sequential"


def test_without_the_variable_nothing_is_looked_for(monkeypatch):
    monkeypatch.delenv(registry.PLUGINS, raising=False)
    assert registry.plugin_folders("routers") == [] and lab.configure("l2r")
