"""Experts in every architecture, wherever a layer finds the rows of a batch, against peft and against each row alone."""

import re
import warnings

import pytest
import torch
from support import architectures, tiny
from support.tiny import rel
from torch.nn import functional as F

from lab.core import registry
from lab.core.errors import LabError
from lab.models.expert_bank import Bank
from lab.routers.base import Decision, LayerDecision, one_hot

pytestmark = pytest.mark.filterwarnings("ignore")  # peft's remarks on configurations
SOME = ("bert", "albert", "deberta-v3", "xlnet", "opt", "gpt2", "llama", "qwen2_moe", "t5", "bart")
NOT_HERE = {"xglm", "rwkv"}  # their own code: no float64, no gradients through keys on a CPU
OTHERS = sorted(set(architectures.ARCHITECTURES) - {*SOME, *NOT_HERE})
NAMES = [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
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


@pytest.mark.parametrize(("kind", "how"), [("lora", "mix"), ("lora", "merge"), ("ia3", "mix")])
@pytest.mark.parametrize("name", NAMES)
def test_rows_with_an_expert_each_are_peft_with_that_adapter_and_so_are_the_gradients(name, kind, how):
    host, made = grown(name, kind, linear_layers(name))
    made.composition = how
    inputs, wrapped = architectures.inputs(host.config, rows=4), in_peft(name, made)
    mask = torch.ones(inputs.get("decoder_input_ids", inputs["input_ids"]).shape)
    with made.routed(Decision(one_hot(ROWS, 3, 1).double())):
        ours = host(**inputs)[0]
        tiny.readout(ours, mask).backward()
    assert any(parameter.grad is not None for parameter in made.expert(0).values())
    for k in range(3):
        rows = ROWS.eq(k).nonzero().flatten()
        for key, parameter in made.expert(k).items():
            layer, _, own = key.rpartition(".")
            peft_parameter(wrapped, layer, own).data = parameter.data.clone()
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
@pytest.mark.parametrize("name", NAMES)
def test_rows_with_a_bottleneck_each_are_the_model_with_that_adapter_written_out(name, how):
    host, made = grown(name, "bottleneck", linear_layers(name)[-4:])
    made.composition = how
    inputs = architectures.inputs(host.config, rows=4)
    with torch.no_grad(), made.routed(Decision(one_hot(ROWS, 3, 1).double())):
        ours = host(**inputs)[0]
        for row, k in enumerate(ROWS.tolist()):
            assert rel(ours[row : row + 1], with_bottlenecks(name, made, k)(**part(inputs, [row]))[0]) < 1e-5


def deciding(made: Bank, mask: torch.Tensor, per_token: bool, asked: list[int]) -> LayerDecision:
    """A router of random vectors that reads what a layer reads: its tokens, or the mean over the row's."""
    draw = torch.Generator().manual_seed(3)
    vectors = [torch.randn(layer.inputs, 3, generator=draw).double() for layer in made.layers]

    def decide(layer: int, x: torch.Tensor) -> torch.Tensor:
        asked.append(layer)
        share = mask[..., None] / mask.sum(1)[:, None, None]
        read = x if per_token else (x * share).sum(1, keepdim=True)
        w = (read @ vectors[layer]).softmax(-1).unsqueeze(2)  # (B, T | 1, 1, E)
        return w if per_token else w[:, 0]

    return LayerDecision(decide, mask)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("name", ["albert", "deberta-v3", "opt", "xlnet"])
def test_what_is_decided_in_the_layers_is_decided_once_for_each_and_row_by_row(name, per_token):
    """Further calls of a layer use what its first one decided; relative positions get the means over the tokens of a row."""
    host, made = grown(name, "lora", linear_layers(name))
    inputs, asked = architectures.inputs(host.config, rows=4), []
    with torch.no_grad(), made.routed(deciding(made, inputs["attention_mask"], per_token, asked)) as decision:
        together = host(**inputs)[0]
    assert sorted(asked) == list(range(len(made.layers)))
    assert decision.recorded().shape == (4, len(made.layers), 1, 3)
    for row in range(4):
        one = part(inputs, [row])
        with torch.no_grad(), made.routed(deciding(made, one["attention_mask"], per_token, [])) as alone:
            assert rel(together[row : row + 1], host(**one)[0]) < 1e-5
        assert rel(alone.recorded(), decision.recorded()[row : row + 1]) < 1e-5
    if name == "deberta-v3":  # by hand: the key projection of positions
        layer = next(layer for layer in made.routed_layers if layer.info.name.endswith("0.attention.self.key_proj"))
        w, x = decision.recorded()[:, layer.index, 0], torch.randn(1, 5, 32).double()  # (B, E)
        with torch.no_grad(), made.routed(decision):
            layer.turn = 1
            out = layer(x)
        a, b = (torch.stack([layer.expert(k)[own] for k in range(3)]).detach() for own in ("lora_A", "lora_B"))
        added = torch.einsum("bk,kor,kri,ni->bno", w, b, a, x[0]) * made.kind.scale
        assert rel(out.as_subclass(torch.Tensor), layer.base(x) + added) < 1e-6


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("name", ["t5", "bart", "gpt2", "opt"])
def test_beams_with_an_expert_for_each_text_are_those_of_the_text_alone(name, kind):
    head = "AutoModelForCausalLM" if name in ("gpt2", "opt") else "AutoModelForSeq2SeqLM"
    host = architectures.model(name, head)
    targets = ["wo", "k", "c_proj", "fc2", "k_proj"]
    expert = registry.experts.get(kind)(registry.experts.options({"name": kind, "targets": targets, **OPTIONS[kind]}))
    made, inputs = Bank(host, host.config.model_type, expert), architectures.inputs(host.config, rows=4, side="left")
    inputs.pop("decoder_input_ids", None)
    answers = {"decoder_input_ids": torch.full((4, 1), 2)} if host.config.is_encoder_decoder else {}
    made.learn_calls(lambda rows: host(**part(inputs | answers, rows)).logits, near=1e-4)
    for k in range(3):
        made.grow(f"e{k}", "test", k)
    tiny.randomise(made)
    how = {"num_beams": 3, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with made.routed(Decision(one_hot(ROWS, 3, 1))):
        together = host.generate(**inputs, **how)
    alone = []
    for row, k in enumerate(ROWS.tolist()):
        with made.routed(Decision(torch.ones(1, 1, 1, 1), experts=(k,))):
            alone.append(host.generate(**part(inputs, [row]), **how))
    assert torch.equal(together, torch.cat(alone))


# -- what is refused ---------------------------------------------------------------------------------------------------------


class Dealt(torch.nn.Module):
    """A mixture of experts as some models have it: each expert is a linear layer that is given the tokens it is dealt."""

    def __init__(self, deal):
        super().__init__()
        self.inner, self.deal = torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)]), deal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat, out = x.flatten(0, 1), torch.zeros(x.shape[0] * x.shape[1], 8)
        for inner, chosen in zip(self.inner, self.deal(flat), strict=True):
            out[chosen] = inner(flat[chosen])
        return out.view_as(x)


def refusal(deal) -> str:
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = torch.nn.ModuleList([Dealt(deal)])

        def can_generate(self) -> bool:
            return False

    host, x = Model(), torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    expert = registry.experts.get("lora")(registry.experts.options({"name": "lora", "targets": ["*"]}))
    made = Bank(host, "toy", expert)
    with pytest.raises(LabError) as caught:
        made.learn_calls(lambda rows: host.block[0](x[rows]), near=1e-4)
    return str(caught.value)


def test_layers_that_are_given_some_of_the_tokens_are_refused():
    by_sign = refusal(lambda flat: [flat[:, 0] > 0, flat[:, 0] <= 0])
    assert by_sign.startswith("layer block.0.inner.0 cannot have experts: for two texts it was given (") and "mixture" in by_sign
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))  # all tokens, in an order of their own
    shuffled = refusal(lambda flat: [order[order < len(flat)], slice(0, 0)])
    assert "would disturb each other" in shuffled and "block.0.inner.0" in shuffled
