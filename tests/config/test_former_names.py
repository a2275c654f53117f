"""Options under former names are read wherever options are given, with a warning that says the present name."""

import pytest
from support.run_folders import write_run

from lab.comparison import grid_spec
from lab.config.former_names import FormerName, current, renamed
from lab.config.resolve import command_line, configure
from lab.core import atomic_io
from lab.core.errors import LabError

OLD = {"memory_training": {"steps": 7}, "train": {"classes": "seen", "lr": 0.5}}
NEW = {"router_training": {"steps": 7}, "train": {"loss_classes": "seen", "lr": 0.5}}


def test_settings_are_renamed_and_the_input_is_left_alone():
    with pytest.warns(FormerName) as warnings:
        assert renamed(OLD) == NEW
    texts = [str(warning.message) for warning in warnings]
    assert texts[0].startswith("memory_training is called router_training now") and "train.loss_classes" in texts[1]
    assert "train" in OLD and "classes" in OLD["train"] and renamed(NEW) == NEW
    assert current("memory_training.steps") == "router_training.steps" and current("train.lr") == "train.lr"


def test_both_names_are_refused():
    with pytest.raises(LabError, match="memory_training is the former name of router_training: give it once"):
        renamed(OLD | NEW)


@pytest.mark.parametrize("way", ["recipe file", "option", "keyword"])
def test_every_way_to_give_an_option(way, tmp_path):
    file = tmp_path / "mine.yaml"
    atomic_io.write_yaml(file, {"base": "l2r"} | ({"memory_training": {"steps": 7}} if way == "recipe file" else {}))
    with pytest.warns(FormerName, match="memory_training is called router_training now; the old name works in this version only"):
        config = configure(
            str(file),
            ["memory_training.steps=7"] if way == "option" else [],
            **({"memory_training": {"steps": 7}} if way == "keyword" else {}),
        )
    assert config.router_training.steps == 7 and configure("l2r").router_training.steps != 7


def test_keys_of_a_grid(tmp_path):
    file = tmp_path / "g.yaml"
    content = {"recipes": ["l2r"], "set": {"memory_training.batch_size": 4}, "sweep": {"memory_training.lr": [0.1, 0.2]}}
    atomic_io.write_yaml(file, content)
    _, grid = grid_spec.read(file)
    assert grid.set == {"router_training.batch_size": 4} and list(grid.sweep) == ["router_training.lr"]


def test_a_run_folder_of_an_earlier_version(tmp_path, recwarn):
    """Read without a warning, since nobody wrote it by hand, and its command has the present names."""
    run = write_run(tmp_path, "old")
    content = configure("l2r").to_dict()
    content["memory_training"] = content.pop("router_training") | {"steps": 7}
    for younger in ("answer", "decoding", "transfer"):
        content.pop(younger, None)
    atomic_io.write_yaml(run.dir / "config.yaml", content)
    again = type(run)(run.dir)
    assert again.config["router_training"]["steps"] == 7
    assert "router_training.steps=7" in command_line(again.config)
    assert not [warning for warning in recwarn if issubclass(warning.category, FormerName)]


def test_the_section_transfer_is_a_protocol_by_now(tmp_path):
    """In recipes, options, grids and old run folders; null was how a recipe did without it."""
    with pytest.warns(FormerName, match="transfer is called protocol now"):
        assert renamed({"transfer": {"shots": [4]}}) == {"protocol": {"name": "transfer", "shots": [4]}}
    with pytest.warns(FormerName):
        options = ["scenario=task", "transfer.shots=[4, 8]", "transfer.adaptation.steps=6"]
        config = configure("full", options)
    assert (config.protocol.name, config.protocol.shots, config.protocol.adaptation.steps) == ("transfer", [4, 8], 6)
    file = tmp_path / "g.yaml"
    atomic_io.write_yaml(file, {"recipes": ["full"], "scenarios": ["task"], "set": {"transfer.shots": [4]}})
    assert grid_spec.read(file)[1].set == {"protocol.name": "transfer", "protocol.shots": [4]}
    for section, name in ((None, "sequential"), ({"shots": [4]}, "transfer")):
        run = write_run(tmp_path, f"old-{name}")
        content = {key: value for key, value in configure("sequential").to_dict().items() if key != "protocol"}
        atomic_io.write_yaml(run.dir / "config.yaml", content | {"transfer": section})
        assert type(run)(run.dir).protocol.name == name
