"""Experts merged into their backbone: a plain model of transformers that computes what the routed one does.

A layer with experts under weights that are the same for every text is an affine map of its input: its matrix is what the layer
makes of the unit vectors, less what it makes of zero. So this holds for whatever kind of expert is linear in the layer's input
(LoRA, (IA)^3, VeRA), for both compositions and for routing heads, and it is tried on random inputs whether it is.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lab.core import atomic_io
from lab.core.errors import LabError
from lab.core.rng import generator
from lab.experts.base import InputExpert, is_linear
from lab.inference import card
from lab.inference.origin import Origin
from lab.inference.saved_model import CARD, CLASSIFIER, new_folder
from lab.models.expert_bank import RoutedLayer
from lab.models.learner import Learner
from lab.models.pretrained import HashTokenizer
from lab.routers.base import Decision, Reads, Request

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEAR = 1e-4  # how far a layer may be from an affine map, as a share of its largest output


def fixed_decision(learner: Learner, task: int | None) -> Decision:
    """The decision about every text, of task `task` (0-based) where the router is told it.

    Raises LabError where the router looks at texts.
    """
    router = learner.router
    granularity = router.axes_of(router.options).granularity
    if granularity not in ("all", "task"):
        raise LabError(
            f"router {router.name} decides for each {granularity} anew, so its experts cannot be merged: "
            "merge one of them, model.expert(NAME).merge(), or save the whole model"
        )
    device = learner.backbone.device
    told = torch.tensor([task or 0], device=device) if Reads.TASK in router.reads else None
    return learner.consolidation.applied(router(Request(torch.ones(1, 1, device=device), task=told)))


def expert_alone(learner: Learner, k: int) -> tuple[dict[str, Tensor], Decision]:
    """The parameters `<layer>.<parameter>` of acting expert k, and the decision that it alone acts."""
    parameters = dict(learner.consolidation.acting(learner.bank.experts())[k])
    stacks = []
    for layer in learner.bank.layers:
        own = {name: tensor for name, tensor in parameters.items() if name.rpartition(".")[0] == layer.name}
        stacks.append({name.rpartition(".")[2]: tensor.unsqueeze(0) for name, tensor in own.items()})
    ones = torch.ones(1, 1, 1, 1, device=learner.backbone.device)
    return parameters, Decision(ones, stacks=stacks, composition="mix")


@torch.no_grad()
def merged(learner: Learner, decision: Decision) -> "PreTrainedModel":
    """The backbone in float32 with the experts merged in as `decision`, the same for every text, weighs them.

    Raises LabError for experts that are no affine change of linear layers.
    """
    bank, model = learner.bank, learner.backbone.model
    if isinstance(bank.kind, InputExpert):
        raise LabError(f"experts of kind {bank.kind.name} stand before the text: they cannot be merged into the backbone")
    replaced = {id(layer): _affine(layer, learner, decision) for layer in bank.routed_layers}
    plain = copy.deepcopy(model, dict(replaced))
    for module in plain.modules():
        vars(module).pop("forward", None)  # those of blocks whose states are kept
    return cast("PreTrainedModel", plain.float())


def _affine(layer: RoutedLayer, learner: Learner, decision: Decision) -> nn.Module:
    """The layer with its experts as one linear layer of the kind that it has replaced."""
    bank, base = learner.bank, copy.deepcopy(layer.base).float()
    refused = LabError(
        f"experts of kind {bank.kind.name} are no linear change of layer {layer.info.name}: they cannot be merged into it"
    )
    if not is_linear(base):
        raise refused
    layer.turn = 0
    stack, w = layer.routed(decision, torch.empty(0))
    how = decision.composition or bank.composition

    def output(x: Tensor) -> Tensor:
        return bank.kind.output(base, x[None].to(w.device), stack | bank.shared, w, how)[0]

    constant = output(torch.zeros(1, layer.info.inputs))  # (1, O)
    weight = output(torch.eye(layer.info.inputs)) - constant  # (I, O)
    x = torch.randn(4, layer.info.inputs, generator=generator("trial of merging"))
    expected = output(x)
    if (x.to(w.device) @ weight + constant - expected).abs().max() > NEAR * expected.abs().max():
        raise refused
    merged_layer = cast(nn.Linear, base)
    if merged_layer.bias is None and constant.any():
        raise refused
    merged_layer.weight.data = (weight.T if isinstance(base, nn.Linear) else weight).contiguous()
    if merged_layer.bias is not None:
        merged_layer.bias.data = constant[0]
    return merged_layer


def classifier(learner: Learner) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) that give the logits of the C classes of the learned tasks from the vector of a text."""
    rows, own = learner.head.classifier, learner.head.classified.own[: learner.head.tasks_seen]
    classes = max((of_task.stop for of_task in own), default=0)
    with torch.no_grad():
        bias = rows(torch.zeros(1, rows.width, device=rows.device))[0, :classes]
        weight = rows(torch.eye(rows.width, device=rows.device))[:, :classes].T - bias[:, None]
    return weight.cpu(), bias.cpu()


def write(folder: Path, plain: "PreTrainedModel", learner: Learner, origin: Origin, what: str) -> None:
    """Save a merged model in a new folder; `what` was merged, for the card. Raises LabError as `new_folder` does."""
    with new_folder(folder) as growing:
        plain.save_pretrained(growing)
        if not isinstance(learner.backbone.tokenizer, HashTokenizer):
            cast("PreTrainedTokenizerBase", learner.backbone.tokenizer).save_pretrained(growing)
        sentence = f"The backbone with {what} merged in."
        if learner.head.has_rows:
            weight, bias = classifier(learner)
            atomic_io.write_arrays(growing / CLASSIFIER, {"weight": weight.contiguous().numpy(), "bias": bias.numpy()})
            names = ", ".join(learner.head.space.names[: len(bias)])
            sentence += (
                f" Its classifier is in {CLASSIFIER}: logits are `vector @ weight.T + bias`, where the vector is the "
                f"`{learner.backbone.pooling}` of the last hidden states over the tokens of a text, of classes {names}."
            )
        atomic_io.replace_bytes(growing / CARD, card.of_merged(learner, origin, sentence).encode())
