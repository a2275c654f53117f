"""The form: every option of a configuration becomes an entry, and changes become overrides that are read back the same."""

from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from lab.pages import server
from lab.pages.train_form import options


class Inner(BaseModel):
    name: str = "gates"
    lr: float = Field(0.002, gt=0, le=10, description="learning rate")
    fast: bool = False


class Outer(BaseModel):
    about: str = ""
    kind: Literal["mix", "merge"] = "mix"
    pool: Literal["own", "shared"] | Annotated[int, Field(ge=1)] = "own"
    limit: int | None = Field(None, ge=2)
    tasks: list[str] | str | None = None
    inner: Inner = Inner()
    methods: dict[str, Inner] = {"replay": Inner(name="replay")}


@pytest.fixture
def found():
    listed = options.entries(Outer(), {"inner.name": ["gates", "uniform"], "tasks": ["a", "b"]}, ["about"])
    return {one.path: one for one in listed}


def test_entries_follow_the_model(found):
    assert list(found) == [
        "kind",
        "pool",
        "limit",
        "tasks",
        "inner.name",
        "inner.lr",
        "inner.fast",
        "methods.replay.lr",
        "methods.replay.fast",
    ]
    assert [found[path].kind for path in ("kind", "limit", "tasks", "inner.name", "inner.lr", "inner.fast")] == [
        "choice",
        "int",
        "names",
        "choice",
        "float",
        "bool",
    ]
    assert found["limit"].optional and found["limit"].low == 2
    assert (found["inner.lr"].low, found["inner.lr"].high, found["inner.lr"].step) == (0, 10, pytest.approx(0.001))
    assert found["pool"].choices == ("own", "shared") and found["pool"].free and not found["kind"].free
    assert found["inner.name"].choices == ("gates", "uniform") and found["inner.lr"].section == "inner"


def test_only_changes_become_overrides(found):
    values = {one.path: one.default for one in found.values()}
    assert options.overrides(list(found.values()), values) == []
    values |= {"kind": "merge", "pool": 10, "limit": 5, "tasks": ["b", "a"], "inner.lr": 1e-5, "inner.fast": True}
    changes = options.overrides(list(found.values()), values)
    assert changes == ["kind=merge", "pool=10", "limit=5", "tasks=[b, a]", "inner.lr=1e-05", "inner.fast=true"]
    assert options.nested(changes) == {
        "kind": "merge",
        "pool": 10,
        "limit": 5,
        "tasks": ["b", "a"],
        "inner": {"lr": 1e-5, "fast": True},
    }


TEXTS = ["true", "5", "null", "a: b", "x", "", "ä, [", "[8", "a: b: c"]


@pytest.mark.parametrize("value", [*TEXTS, None, [], ["a b", "c"], 0.1, 3, False])
def test_written_values_are_read_back(value):
    assert yaml.safe_load(options.written(value)) == value


def test_settings_of_the_server_are_the_same_in_the_checkout_and_in_the_package():
    checkout = server.HERE.parents[1] / ".streamlit" / "config.toml"
    assert checkout.read_text() == (server.HERE / "config.toml").read_text()
    command = server.command(9000)
    assert (
        "--server.address=127.0.0.1" in command
        and "--browser.gatherUsageStats=false" in command
        and "--server.port=9000" in command
    )
