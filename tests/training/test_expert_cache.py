"""Addresses of what training makes: functions of plain values, and what shares an expert with what."""

import pytest
import torch
from pydantic import Field
from support import toy

from lab.config.resolve import configure
from lab.config.schema import RunConfig, TrainConfig
from lab.training import expert_cache
from lab.training.expert_cache import Store, query_address, training_address
from lab.training.stages import ExpertTraining

SEA, CITY = toy.task("sea"), toy.task("city")


def address(*options: str, recipe: str = "l2r", tasks=(SEA,), backbone: str = "weights", layers=("layer",), **settings) -> str:
    return training_address(configure(recipe, options, **settings), tasks, backbone, layers)


def test_what_shares_an_expert():
    """Recipe, router, memory and scenario do not count, nor do options that training does not read."""
    assert address() == address(recipe="oracle") == address("memory.per_task=5", recipe="l2r-merge", scenario="domain")
    assert address() == address("experts.start.city=folder")


@pytest.mark.parametrize(
    "option",
    [
        "train.lr=0.01",
        "train.epochs=3",
        "train.clip=0",
        "experts.rank=4",
        "experts=bottleneck",
        "seed=1",
        "backbone.max_length=8",
        f"experts.start.sea=folder#{'0' * 64}",
    ],
)
def test_what_does_not(option):
    assert address(option) != address()


def test_weights_layers_and_data_count():
    others = [
        {"backbone": "other weights"},
        {"layers": ("other",)},
        {"tasks": [toy.task("sea", train=46)]},
        {"tasks": [SEA, CITY]},
    ]
    addresses = [address(), *(address(**other) for other in others)]
    assert len(set(addresses)) == len(addresses) and all(len(address) == 32 for address in addresses)


def test_the_folder_of_the_experts_that_training_begins_with_does_not_count():
    assert address(f"experts.start.sea=here#{'0' * 64}") == address(f"experts.start.sea=there#{'0' * 64}")


def test_an_option_of_a_later_version_changes_no_address():
    class MoreTraining(TrainConfig):
        averaging: float = Field(0.0, description="an option of a later version")

    config = configure("l2r")
    later = config.model_copy(update={"train": MoreTraining(**config.train.model_dump())})
    using = config.model_copy(update={"train": MoreTraining(**config.train.model_dump(), averaging=0.9)})

    def of(config: RunConfig) -> str:
        return training_address(config, [SEA], "weights", ["layer"])

    assert of(config) == of(later) != of(using)


def test_queries_depend_on_texts_and_backbone_alone():
    config = configure("l2r").backbone
    assert query_address(config, SEA, "weights") == query_address(config.model_copy(update={"name": "copy"}), SEA, "weights")
    cut = config.model_copy(update={"max_length": 8})
    others = [query_address(cut, SEA, "weights"), query_address(config, CITY, "weights"), query_address(config, SEA, "other")]
    assert len({query_address(config, SEA, "weights"), *others}) == 4


def test_the_engine_counts(monkeypatch):
    before = address()
    monkeypatch.setattr(expert_cache, "ENGINE", expert_cache.ENGINE + 1)
    assert address() != before


def test_a_session_asks_for_the_address_of_its_own_values():
    session, alone = toy.session("l2r", of=toy.tasks("farm", "sea")), toy.session("oracle", of=toy.tasks("sea"))
    layers = [layer.name for layer in session.learner.bank.layers]
    identity = session.learner.backbone.identity
    address = ExpertTraining(session, 1).address()
    assert address == training_address(session.config, [session.tasks[1]], identity, layers)
    assert address == ExpertTraining(alone, 0).address() != ExpertTraining(session, 0).address()


def test_what_is_kept_is_fetched_to_the_bit(tmp_path):
    store, weights = Store(tmp_path), torch.randn(3, 2)
    assert store.fetch("a", {"w": weights}) is None
    store.keep("a", {"w": weights}, 1.23456, note="mine")
    copy = torch.zeros(3, 2)
    about = store.fetch("a", {"w": copy}) or {}
    assert about == {"train_s": "1.235", "note": "mine", "sha256": about["sha256"]} and torch.equal(copy, weights)
