"""The contract of an expert kind, see `lab.experts.base`: three experts with random parameters in the backbone `tiny`."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lab.config.schema import BackboneConfig, RunConfig
from lab.contracts.checking import Check, documentation_check, need, same
from lab.contracts.tiny_run import tasks
from lab.core.registry import experts
from lab.core.rng import generator
from lab.data.batching import Batch
from lab.experts.base import ExpertOptions, InputExpert, LayerInfo, parameters_of, refuse_output
from lab.models.backbone import Backbone
from lab.models.expert_bank import Bank
from lab.models.learner import Learner
from lab.models.pretrained import resolve
from lab.routers.base import Decision, one_hot, single_expert

LAYER = LayerInfo("some.layer", 12, 16, (("weight", (16, 12)), ("bias", (16,))))
EXPERTS, NEAR = 3, 1e-5


@cache
def _tiny(dtype: str = "float32") -> BackboneConfig:
    return resolve(BackboneConfig(name="tiny", device="cpu", dtype=dtype, threads=1))  # type: ignore[arg-type]


class Host:
    """A backbone with a bank of experts in it, and a batch of texts."""

    def __init__(self, options: ExpertOptions, how: str = "mix", heads: int = 1, count: int = EXPERTS):
        self.backbone = Backbone(_tiny())
        self.bank = Bank(self.backbone.model, self.backbone.type, experts.get(options.name)(options), how, heads)
        self.bank.learn_calls(self.backbone.trial(answers=False), self.backbone.tolerance)
        for k in range(count):
            self.bank.grow(f"e{k}", "test", k)
        randomise(self.bank)
        rows = self.backbone.encode(tasks("sea")[0].train[:4], 0, "train")
        self.batch: Batch = self.backbone.collate(rows)

    def hidden(self, decision: Decision | None = None) -> Tensor:
        """Representations of the batch (B, D) under a decision."""
        with self.bank.routed(decision or Decision(torch.ones(1, 1, 1, 1))):
            return self.backbone.embed(self.batch)


def randomise(bank: Bank, seed: int = 0) -> None:
    """Random values in all parameters: fresh experts change nothing and would hide every fault."""
    draw = torch.Generator().manual_seed(seed)
    for k in range(len(bank)):
        for parameter in bank.expert(k).values():
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.3
    for layer in bank.routed_layers:
        layer.changed()


def shares(*shape: int) -> Tensor:
    """Random weights that sum to one over the last axis."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3)).softmax(-1)


def away(first: Tensor, second: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-9))


# -- checks ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def a_fresh_expert_changes_nothing(options: ExpertOptions) -> None:
    """Alone and among others; of experts that stand before the text this is not asked."""
    if issubclass(experts.get(options.name), InputExpert):
        return
    for how in ("mix", "merge"):
        host = Host(options, how, count=0)
        base = host.backbone.embed(host.batch)
        for k in range(2):
            host.bank.grow(f"fresh{k}", k)
            changed = away(host.hidden(Decision(shares(4, 1, 1, k + 1))), base)
            need(changed < NEAR, f"a fresh expert changes the output by {changed:.0e} in {how}: let new() begin with zeros")


def a_fresh_expert_can_learn(options: ExpertOptions) -> None:
    """Some of its parameters have a gradient at the start: not all of them may be at a saddle."""
    host = Host(options, count=0)
    host.bank.grow("fresh", 0)
    out = host.hidden()
    need(out.requires_grad, "no gradient reaches a fresh expert: use its parameters in output()")
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
    for layer in host.bank.routed_layers:
        learns = any(p.grad is not None and p.grad.any() for p in layer.expert(0).values())
        need(learns, f"no parameter of a fresh expert in {layer.info.name} has a gradient: let one factor begin away from zero")


def new_parameters_come_from_the_generator(options: ExpertOptions) -> None:
    """Plain tensors of 32-bit floats, the same for the same seed."""
    kind = experts.get(options.name)(options)
    first, again, other = (parameters_of(kind, LAYER, generator(seed)) for seed in (1, 1, 2))
    need(first.keys() == again.keys() == other.keys(), "new() gives other names each time")
    need(same([*first.values()], [*again.values()]), "new() draws from elsewhere: draw with generator=generator")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        kind.new(LAYER, generator(3))
        need(torch.equal(state, torch.get_rng_state()), "new() draws from torch's global generator: use generator=generator")
    if any(tensor.unique().numel() > 1 for tensor in first.values()):
        need(any(not torch.equal(first[key], other[key]) for key in first), "new() ignores its generator")
    for name, tensor in first.items():
        plain = tensor.dtype == torch.float32 and not tensor.requires_grad
        need(plain, f"new() gives {name} as {tensor.dtype}: plain tensors of torch.float32, which the bank makes parameters of")


def _inputs_of_layers(host: Host) -> dict[int, Tensor]:
    """What each layer is given when the backbone alone reads the batch, by its number."""
    inputs: dict[int, Tensor] = {}

    def note(layer: Any, arguments: Any) -> None:
        inputs.setdefault(layer.index, arguments[0])

    hooks = [layer.register_forward_pre_hook(note) for layer in host.bank.routed_layers]
    host.backbone.embed(host.batch)
    for hook in hooks:
        hook.remove()
    return inputs


@torch.no_grad()
def outputs_have_the_shape_of_the_layer(options: ExpertOptions) -> None:
    """For weights of one row or of each, of all tokens or of each, whatever the number of heads and the composition."""
    for how, heads in (("mix", 1), ("merge", 2)):
        host = Host(options, how, heads)
        inputs = _inputs_of_layers(host)
        for layer in host.bank.routed_layers:
            x = inputs[layer.index]
            rows, tokens = x.shape[:2]
            for shape in ((1, 1), (rows, 1), (1, tokens), (rows, tokens)):
                w, stack = shares(*shape, heads, EXPERTS), layer.stack(tuple(range(EXPERTS))) | host.bank.shared
                out = host.bank.kind.output(layer.base, x, stack, w, how)
                refuse_output(host.bank.kind, layer.info, x, out)
                wide = host.bank.kind.output(layer.base, x, stack, w.expand(rows, tokens, heads, EXPERTS), how)
                need(away(out, wide) < NEAR, f"output() in {how} differs between {shape} and each row and token")


@torch.no_grad()
def one_hot_weights_are_the_expert_itself(options: ExpertOptions) -> None:
    """In mix and in merge."""
    rows, outputs = torch.tensor([2, 0, 1, 0]), {}
    for heads in (1, 2):
        for how in ("mix", "merge"):
            host = Host(options, how, heads)
            outputs[how] = host.hidden(Decision(one_hot(rows, EXPERTS, heads)))
            for row, k in enumerate(rows.tolist()):
                alone = host.hidden(single_expert(k, torch.device("cpu")))
                apart = away(outputs[how][row], alone[row])
                need(apart < NEAR, f"weight 1 for one of {EXPERTS} experts is {apart:.0e} away from this expert alone, in {how}")
        need(away(outputs["mix"], outputs["merge"]) < NEAR, "with weight 1 for one expert mix and merge differ")


def isolated_experts_are_the_same_whatever_comes_after(options: ExpertOptions, dtype: str = "float32") -> None:
    """Recipes share isolated experts, so neither composition nor router may decide their bits."""
    gradients: list[list[Tensor]] = []
    gates = {"name": "gates", "heads": 4, "query": "backbone"}
    for how, router in (("mix", {"name": "uniform"}), ("merge", {"name": "uniform"}), ("merge", gates)):
        config = RunConfig(backbone=_tiny(dtype), experts=options, composition=how, router=router)  # type: ignore[arg-type]
        task = tasks("sea")[0]
        learner = Learner(config, [task])
        learner.add_task(0)
        randomise(learner.bank)
        batch = learner.backbone.collate(learner.backbone.encode(task.train[:4], 0, "train"))
        with learner.bank.routed(single_expert(0, learner.backbone.device)):
            torch.nn.functional.cross_entropy(learner.head.logits(batch), batch.label).backward()
        parameters = [*learner.bank.expert(0).values(), *learner.head.classifier.parameters()]
        gradients.append([p.grad for p in parameters if p.grad is not None])
    for other in gradients[1:]:
        need(same(gradients[0], other), "an expert trained alone depends on composition or router: compute mix where E is 1")


@torch.no_grad()
def saved_and_brought_in_again_to_the_bit(options: ExpertOptions) -> None:
    """Parameters, outputs, and the file itself."""
    host, other = Host(options), Host(options, count=0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        host.bank.export(1, folder / "once")
        host.bank.export(1, folder / "twice")
        other.bank.import_expert(folder / "once", "again")
        files = [(folder / copy / "adapter_model.safetensors").read_bytes() for copy in ("once", "twice")]
    need(files[0] == files[1], "saved twice, the files differ")
    need(same([*host.bank.expert(1).values()], [*other.bank.expert(0).values()]), "what is saved is not what is read again")
    decision = single_expert(1, torch.device("cpu"))
    need(torch.equal(host.hidden(decision), other.hidden()), "an expert that was read again computes something else")


CHECKS: Sequence[Check] = (
    documentation_check(experts),
    new_parameters_come_from_the_generator,
    outputs_have_the_shape_of_the_layer,
    a_fresh_expert_changes_nothing,
    a_fresh_expert_can_learn,
    one_hot_weights_are_the_expert_itself,
    isolated_experts_are_the_same_whatever_comes_after,
    saved_and_brought_in_again_to_the_bit,
)
