"""Experts in every architecture, wherever a layer finds the rows of a batch, against peft and against each row alone."""

import re
import warnings

import pytest
import torch
from support import architectures, tiny
from support.tiny import rel
from torch.nn import functional as F

from lab.core import registry
from lab.models.expert_bank import Bank
from lab.routers.base import Decision, one_hot

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's remarks on configurations
SOME = ("bert", "albert", "deberta", "deberta-v3", "xlnet", "opt", "gpt2", "phi3", "qwen2_moe", "t5", "bart")
ROWS = torch.tensor([2, 0, 1, 0])  # the expert of each row
OPTIONS = {"lora": {"rank": 3, "alpha": 5.0}, "ia3": {}, "bottleneck": {"size": 4}}


def grown(name: str, kind: str, targets: list[str], experts: int = 3):
    """A model in float64, in which no rounding is large, and a bank of random experts in it."""
    host, texts = architectures.model(name), architectures.inputs(architectures.config(name))
    expert = registry.experts.get(kind)(registry.experts.options({"name": kind, "targets": targets, **OPTIONS[kind]}))
    made = Bank(host, host.config.model_type, expert)
    made.learn_calls(lambda rows: host(**part(texts, rows))[0], near=1e-4)
    for k in range(experts):
        made.grow(f"e{k}", "test", k)
    tiny.randomise(made)
    for parameter in (*host.parameters(), *(p for k in range(experts) for p in made.expert(k).values())):
        parameter.data = parameter.data.double()
    return in_float64(host), made


def in_float64(host):
    host.config._experts_implementation = "eager"  # others are in lower precision alone
    return host.double()


def part(inputs: dict[str, torch.Tensor], rows) -> dict[str, torch.Tensor]:
    return {key: value[rows] for key, value in inputs.items()}


def linear_layers(name: str) -> list[str]:
    """All linear layers of the blocks but those of llama4 that return more than a tensor."""
    from lab.experts.base import is_linear

    modules = architectures.model(name).named_modules()
    return [path for path, module in modules if is_linear(module) and re.search(r"\.\d+\.", path) and not path.endswith("router")]


def in_peft(name: str, made: Bank):
    """The same layers adapted by peft, in float64, with an adapter whose values are still to be set."""
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    ours = made.kind.peft_config([layer.name for layer in made.layers], "")
    del ours["task_type"], ours["inference_mode"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(architectures.model(name), PEFT_TYPE_TO_CONFIG_MAPPING[ours.pop("peft_type")](**ours))
    return in_float64(wrapped.eval())


def peft_parameter(wrapped, layer: str, own: str) -> torch.nn.Parameter:
    found = getattr(wrapped.base_model.model.get_submodule(layer), own)["default"]
    return found.weight if isinstance(found, torch.nn.Linear) else found


def with_bottlenecks(name: str, made: Bank, k: int):
    """The model with adapter k behind its layers, written out."""
    host = in_float64(architectures.model(name))
    for layer in made.layers:
        down, down_bias, up, up_bias = (
            made.expert(k)[f"{layer.name}.{own}"].detach() for own in ("down", "down_bias", "up", "up_bias")
        )

        def behind(module, args, y, down=down, down_bias=down_bias, up=up, up_bias=up_bias):
            return y + F.relu(y @ down.T + down_bias) @ up.T + up_bias

        host.get_submodule(layer.name).register_forward_hook(behind)
    return host


@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("name", SOME)
def test_rows_with_an_expert_each_are_peft_with_that_adapter_and_so_are_the_gradients(name, kind, how):
    host, made = grown(name, kind, linear_layers(name))
    made.composition = how
    inputs, wrapped = architectures.inputs(host.config, rows=4), in_peft(name, made)
    mask = torch.ones(inputs.get("decoder_input_ids", inputs["input_ids"]).shape)
    with made.routed(Decision(one_hot(ROWS, 3, 1).double())):
        ours = host(**inputs)[0]
        tiny.readout(ours, mask).backward()
    assert {name for name, p in made.expert(0).items() if p.grad is not None}
    for k in range(3):
        rows = ROWS.eq(k).nonzero().flatten()
        for layer in made.layers:
            for own, parameter in made.routed_layers[made.layers.index(layer)].expert(k).items():
                peft_parameter(wrapped, layer.name, own).data = parameter.data.clone()
        wrapped.zero_grad()
        theirs = wrapped(**part(inputs, rows))[0]
        assert rel(ours[rows], theirs) < 1e-5
        tiny.readout(theirs, mask[rows]).backward()
        for key, parameter in made.expert(k).items():
            layer, _, own = key.rpartition(".")
            expected = peft_parameter(wrapped, layer, own).grad
            assert (parameter.grad is None) == (expected is None)
            assert expected is None or (parameter.grad - expected).abs().max() <= 1e-5 * expected.abs().max() + 1e-12, key


@pytest.mark.parametrize("how", ["mix", "merge"])
@pytest.mark.parametrize("name", SOME)
def test_rows_with_a_bottleneck_each_are_the_model_with_that_adapter_written_out(name, how):
    host, made = grown(name, "bottleneck", linear_layers(name)[-4:])
    made.composition = how
    inputs = architectures.inputs(host.config, rows=4)
    with torch.no_grad(), made.routed(Decision(one_hot(ROWS, 3, 1).double())):
        ours = host(**inputs)[0]
        for row, k in enumerate(ROWS.tolist()):
            assert rel(ours[row : row + 1], with_bottlenecks(name, made, k)(**part(inputs, [row]))[0]) < 1e-5
