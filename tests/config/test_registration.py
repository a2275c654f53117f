"""`lab.register`: classes and recipes of this process are plug-ins like the shipped ones."""

import os
from pathlib import Path

import pytest
from support.errors import assert_says

import lab
from lab.config import registration
from lab.config.resolve import recipes
from lab.core import registry
from lab.core.registry import Options
from lab.data.stream import Stream, Task
from lab.jobs import scheduler
from lab.metrics.base import Metric, metric_classes
from lab.routers.base import Axes, Router, RouterOptions

CELL = '''
import lab
from lab.routers.base import Axes, Decision, RouterOptions

class {name}Options(RouterOptions):
    name: str = "{plugin}"

@lab.register
class {name}(lab.Router):
    """{about}"""

    name = "{plugin}"
    Options = {name}Options
    axes = Axes("model", "all", "soft")

    def forward(self, request):
        return Decision(None)
'''


pytestmark = pytest.mark.usefixtures("nothing_registered")


def cell(name: str = "Mine", plugin: str = "mine", about: str = "Mine.", module: str = "__main__"):
    names = {"__name__": module}
    exec(CELL.format(name=name, plugin=plugin, about=about), names)
    return names[name]


def test_a_registered_class_is_a_plugin_and_a_cell_that_is_run_again_replaces_it():
    first = cell()
    assert registry.routers.get("mine") is first and registry.routers.about("mine") == "Mine."
    assert lab.configure("l2r", ["router=mine", "router.heads=2"]).router.heads == 2
    second = cell(about="Better.")
    assert registry.routers.get("mine") is second and registry.routers.about("mine") == "Better."
    cell(plugin="other")
    assert "mine" not in registry.routers.names() and "other" in registry.routers.names()


@pytest.mark.parametrize(
    ("plugin", "parts"),
    [
        ({"plugin": "uniform"}, ("router 'uniform' is there already", "lab.routers.uniform", 'name = "my-uniform"')),
        ({"plugin": "My_Router"}, ("'My_Router'", "a-z 0-9 -")),
    ],
)
def test_names_that_cannot_be(plugin, parts):
    with pytest.raises(lab.LabError) as refused:
        cell(**plugin)
    assert_says(refused, *parts)
    assert registry.routers.registered == {}


def test_another_place_does_not_take_a_name_over():
    cell()
    with pytest.raises(lab.LabError, match=r"'mine' is there already \(__main__\.Mine, registered"):
        cell(name="Yours")


def complete(**without):
    body = {"name": "mine", "axes": Axes("model", "all", "soft"), "forward": lambda self, request: None}
    return type("Mine", (Router,), {name: value for name, value in (body | without).items() if value is not None})


class Demanding(Options):
    steps: int


@pytest.mark.parametrize(
    ("plugin", "parts"),
    [
        (complete(name=None), ("Mine has no name of its own", 'name = "mine"')),
        (complete(axes=None), ("Mine leaves out axes", "lab.routers.base")),
        (complete(forward=None), ("Mine leaves out forward",)),
        (complete(Options=Options), ("Mine.Options must derive from RouterOptions",)),
        (complete(Options=type("Bad", (RouterOptions, Demanding), {})), ("option steps of Mine has no default",)),
        (type("Free", (), {"name": "free"}), ("'Free' is no plug-in", "lab.Router", "lab.Metric")),
        (3, ("a recipe a mapping", "not int")),
    ],
)
def test_what_is_left_out_is_named(plugin, parts):
    with pytest.raises(lab.LabError) as refused:
        lab.register(plugin)
    assert_says(refused, *parts)


def test_the_kind_follows_from_the_base_class():
    assert {kind.kind.split()[0] for kind in registry.ALL} == {
        getattr(lab, name).kind for name in ("Router", "Method", "Expert", "Stream", "Metric", "Protocol", "Consolidation")
    }
    assert (lab.Router, lab.Stream, lab.Metric) == (Router, Stream, Metric)

    @lab.register
    class Two(Stream):
        """Two tasks."""

        name = "two"

        def names(self) -> list[str]:
            return ["a", "b"]

        def load(self, name: str) -> Task:
            raise NotImplementedError

    @lab.register
    class Last(Metric):
        """The last score."""

        name = path = "last-score"
        title, latex = "Last", "R_{T,T}"

        def compute(self, scores) -> float:
            return float(scores.last[-1])

    assert registry.streams.get("two") is Two and Last in metric_classes()
    del registry.metrics.registered["last-score"]
    assert Last not in metric_classes()


def test_recipes(tmp_path):
    lab.register({"base": "l2r", "about": "mine", "train": {"lr": 0.5}}, name="mine")
    lab.register("recipe: text\nbase: mine\ntrain: {epochs: 2}\n")
    (tmp_path / "filed.yaml").write_text("base: text\n")
    lab.register(tmp_path / "filed.yaml")
    config = lab.configure("filed")
    assert (config.recipe, config.train.lr, config.train.epochs) == ("filed", 0.5, 2)
    assert [recipe["about"] for recipe in recipes() if recipe["name"] == "mine"] == ["mine"]
    lab.register({"base": "l2r", "train": {"lr": 0.25}}, name="mine")
    assert lab.configure("text").train.lr == 0.25
    for offered, name, parts in (
        ({"base": "l2r"}, None, ("needs a name",)),
        ({"base": "l2r"}, "l2r", ("recipe 'l2r' is there already", "my-l2r")),
        ({"base": "l2r", "train": {"lrr": 1}}, "mine", ("lrr", "did you mean 'lr'")),
    ):
        with pytest.raises(lab.LabError) as refused:
            lab.register(offered, name)
        assert_says(refused, *parts)
    assert lab.configure("mine").train.lr == 0.25


def test_classes_at_places_that_are_found_anyway_need_no_registration(tmp_path, monkeypatch):
    """So that a file may hold the decorator and lie in a folder of plug-ins as well."""
    (tmp_path / "routers").mkdir()
    (tmp_path / "routers" / "mine.py").write_text(CELL.format(name="Mine", plugin="mine", about="Mine."))
    monkeypatch.setenv(registry.PLUGINS, str(tmp_path))
    plugin = registry.routers.get("mine")
    assert registry.routers.get("mine") is plugin and registry.routers.registered == {"mine": plugin}
    own = registry.routers.own("mine")
    assert own is not None and own.source == (tmp_path / "routers" / "mine.py").read_text() and own.file == "routers/mine.py"
    assert own.origin == "mine.py in LAB_PLUGINS" and registry.routers.own("uniform") is None
    monkeypatch.delenv(registry.PLUGINS)
    assert "mine" in registry.routers.names(), "it was loaded, and says itself that it is to be offered"


def test_a_process_that_is_started_from_here_finds_what_was_registered(cells, monkeypatch):
    """Its environment names a folder with the sources; there the class has the digest that it has here."""
    assert registration.environment() == dict(os.environ)
    cells(CELL.format(name="Mine", plugin="mine", about="Mine."))
    here = registry.routers.own("mine")
    monkeypatch.setenv(registry.PLUGINS, "/of/mine")
    folders = registration.environment()[registry.PLUGINS]
    assert folders.endswith(f"{os.pathsep}/of/mine") and scheduler.environment()[registry.PLUGINS] == folders
    monkeypatch.setattr(registry.routers, "registered", {})
    monkeypatch.setenv(registry.PLUGINS, folders)
    there = registry.routers.own("mine")
    assert here and there and here.digest == there.digest and registry.routers.about("mine") == "Mine."
    folder = Path(folders.split(os.pathsep)[0])
    assert folder.stat().st_mode & 0o77 == 0 and [path.name for path in folder.rglob("*.py")] == ["mine.py"]
    assert registration.environment() == dict(os.environ), "what others find needs no second source"
