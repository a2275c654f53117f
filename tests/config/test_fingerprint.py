"""Addresses: an option that is added with a default changes none, a value that differs from its default does."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from lab.config import fingerprint
from lab.config.fingerprint import address, differing
from lab.config.resolve import configure, merged, parse_override, typed
from lab.config.schema import RunConfig, StreamConfig, TrainConfig
from lab.core import registry
from lab.experts.lora import LoraOptions

DEFAULTS = Path(__file__).parent / "defaults.json"


class MoreTraining(TrainConfig):
    averaging: bool = Field(False, description="an option of a later version")


class MoreLora(LoraOptions):
    dropout: float = Field(0.0, description="an option of a later version")


class MoreRun(RunConfig):
    patience: int = Field(0, description="an option of a later version")


def test_a_configuration_of_defaults_has_nothing_to_say():
    assert differing(RunConfig()) == {}
    assert differing(configure("custom", ["train.lr=0.01", "stream.max_train=8"])) == {
        "train": {"lr": 0.01},
        "stream": {"max_train": 8},
    }


def test_a_plugin_keeps_its_name():
    config = typed({"router": "gates", "experts": "ia3", "methods": {"replay": {}, "ewc": {"strength": 3.5}}})
    assert differing(config)["router"] == {"name": "gates"} and differing(config)["experts"] == {"name": "ia3"}
    assert differing(config)["methods"] == {"replay": {"name": "replay"}, "ewc": {"name": "ewc", "strength": 3.5}}


def test_a_section_of_defaults_is_not_an_absent_one():
    class Inner(BaseModel):
        size: int = 1

    class Outer(BaseModel):
        maybe: Inner | None = None
        other: Inner = Inner(size=2)

    assert differing(Outer()) == {} and differing(Outer(maybe=Inner())) == {"maybe": {}}
    assert differing(Outer(other=Inner())) == {"other": {}} and differing(Outer(other=Inner(size=2))) == {}


def test_an_added_option_changes_no_address():
    config = configure("l2r", ["train.lr=0.01", "experts.rank=4"])
    now = address(differing(config))
    train = MoreTraining(**config.train.model_dump())
    experts = MoreLora(**config.experts.model_dump())
    later = MoreRun(**config.model_dump()).model_copy(update={"train": train, "experts": experts})
    assert later.patience == 0 and not later.train.averaging and address(differing(later)) == now
    for section, value in (("train", {"averaging": True}), ("experts", {"dropout": 0.1})):
        changed = later.model_copy(update={section: getattr(later, section).model_copy(update=value)})
        assert address(differing(changed)) != now
    assert address(differing(later.model_copy(update={"patience": 1}))) != now


@pytest.mark.parametrize(
    "change", ["train.lr=0.02", "seed=1", "router=uniform", "router.heads=2", "experts.start.sea=folder", "answer=words"]
)
def test_a_changed_value_changes_the_address(change):
    content = configure("l2r").to_dict()
    assert address(differing(typed(content))) != address(differing(typed(merged(content, parse_override(change)))))


def test_the_order_of_keys_does_not_count():
    assert address({"a": {"b": 1, "c": 2}, "d": []}) == address({"d": [], "a": {"c": 2, "b": 1}}) != address({"a": {"b": 1}})
    first, second = (typed({"methods": {name: {} for name in names}}) for names in (("replay", "ewc"), ("ewc", "replay")))
    assert address(differing(first)) == address(differing(second))


def test_the_version_of_the_defaults_is_part_of_an_address(monkeypatch):
    before = address({"a": 1})
    monkeypatch.setattr(fingerprint, "VERSION", fingerprint.VERSION + 1)
    assert address({"a": 1}) != before


def defaults() -> dict[str, object]:
    """The default of every option, those of plug-ins too, by its path."""

    def flat(values, prefix: str) -> dict[str, object]:
        nested = {name: value for name, value in values.items() if isinstance(value, dict) and value}
        plain = {f"{prefix}{name}": value for name, value in values.items() if name not in nested}
        return plain | {path: value for name, inner in nested.items() for path, value in flat(inner, f"{prefix}{name}.").items()}

    values = flat(RunConfig().to_dict(), "")
    for kind in (registry.routers, registry.experts, registry.methods, registry.protocols):
        for name in kind.names():
            values |= flat(kind.get(name).Options().model_dump(mode="json"), f"{kind.kind} {name}.")
    return values


def test_a_changed_default_comes_with_a_version():
    """`defaults.json` holds the defaults of `VERSION`; options that were added since may be missing in it."""
    saved, now = json.loads(DEFAULTS.read_text()), defaults()
    changed = sorted(path for path in saved["defaults"].keys() & now.keys() if saved["defaults"][path] != now[path])
    assert saved["version"] == fingerprint.VERSION and not changed, (
        f"the defaults of {changed} changed: raise lab.config.fingerprint.VERSION and write tests/config/defaults.json anew"
    )


def test_plain_values_only():
    assert json.dumps(differing(configure("poly"))) and differing(StreamConfig(tasks=["a"])) == {"tasks": ["a"]}
