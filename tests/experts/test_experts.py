"""The contract of an expert kind, for every kind there is."""

import pytest

from lab.contracts import experts as contract
from lab.contracts.checking import title
from lab.core.errors import LabError
from lab.core.registry import experts

KINDS = experts.names()


@pytest.mark.parametrize("check", contract.CHECKS, ids=title)
@pytest.mark.parametrize("name", KINDS)
def test_contract(name, check):
    check(experts.options(name))


@pytest.mark.parametrize("name", KINDS)
def test_isolated_experts_in_half_precision(name):
    contract.isolated_experts_are_the_same_whatever_comes_after(experts.options(name), "bfloat16")


@pytest.mark.parametrize("name", KINDS)
def test_options_are_of_their_kind(name):
    kind = experts.get(name)
    assert kind.Options().name == kind.name == name
    with pytest.raises(ValueError, match="no_such_option"):
        kind.Options(no_such_option=1)


@pytest.mark.parametrize("name", KINDS)
def test_heads_must_divide(name):
    kind = experts.get(name)(experts.options(name))
    for heads in (1, 2, 4):
        kind.check_heads(contract.LAYER, heads)
    with pytest.raises(
        LabError, match=r"^router.heads = 7 does not divide the width \d+ of layer some.layer: choose one of 1, 2, 4"
    ):
        kind.check_heads(contract.LAYER, 7)
