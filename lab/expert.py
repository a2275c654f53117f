"""The contract of an expert kind: which layers it adapts, the parameters of one expert, and how a stack of them composes."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.errors import LabError
from lab.registry import Options, Plugin


class ExpertOptions(Options):
    """Options every kind of expert has."""

    name: str = "lora"
    allocation: Literal["per_task", "shared"] = Field(
        "per_task", description="one expert per task, frozen after it, or one shared by all"
    )
    isolated: bool = Field(True, description="earlier experts are switched off while a new one is trained")
    targets: list[str] | None = Field(
        None, description="names (or endings of names) of the layers to adapt; null: by kind of model"
    )
    skip: float = Field(0.0, ge=0, lt=1, description="share of the backbone's blocks, from the lowest on, that get no experts")


class LayerInfo(NamedTuple):
    """One adapted layer: its place in the backbone, the widths of its input and output, the shapes of its own parameters.

    What is no linear layer (an embedding, a norm) has the width of its output as both.
    """

    name: str
    inputs: int
    outputs: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Expert(Plugin):
    """A kind of PEFT module. Instances are stateless: parameters live in the bank."""

    Options: ClassVar[type[ExpertOptions]] = ExpertOptions
    peft_format: ClassVar[bool] = False  # saved as peft saves it, and loadable there
    peft_names: ClassVar[tuple[str, str]] = ("lora_", ".weight")  # how names of parameters begin and end there

    def __init__(self, options: ExpertOptions):
        self.options = options

    @abstractmethod
    def targets(self, model_type: str) -> Sequence[str] | None:
        """Endings of the names of the layers to adapt in this type of model; "*" for all, None if it is not known."""

    def adapts(self, module: nn.Module) -> bool:
        """Whether this kind can adapt such a module; by default linear layers."""
        return is_linear(module)

    @abstractmethod
    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of a fresh expert in one layer; a fresh expert changes nothing."""

    @abstractmethod
    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        """Output of the adapted layer, in the base layer's dtype.

        base the frozen layer, x (B, T, I) its input, or ids (B, T), stack: parameters with a leading expert axis (E, ...),
        w (B|1, T|1, H, E), how "mix" or "merge" -> (B, T, O).
        """

    def check_heads(self, layer: LayerInfo, heads: int) -> None:
        """Refuse numbers of routing heads that do not divide the widths they cut."""
        for width in {layer.inputs, layer.outputs}:
            if width % heads:
                near = [h for h in range(1, width + 1) if math.gcd(layer.inputs, layer.outputs) % h == 0]
                raise LabError(
                    f"router.heads = {heads} does not divide the width {width} of layer {layer.name}: "
                    f"choose one of {', '.join(map(str, near[:12]))}"
                )

    def peft_config(self, names: Sequence[str], base: str) -> dict:
        """Content of adapter_config.json, for kinds with `peft_format`."""
        raise LabError(f"experts of kind '{self.options.name}' have no peft format")


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, transformers' Conv1D (GPT-2) among them."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    """U(-bound, bound) from the expert's own generator."""
    return nn.init.uniform_(torch.empty(*shape), -bound, bound, generator=generator)
