"""The contract of an expert kind: which layers it adapts, the parameters of one expert, and how a stack of them composes."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from lab.core.errors import LabError, RunFailed
from lab.core.plugin_errors import refuse_entries, wrong_return
from lab.core.registry import Options, Plugin

if TYPE_CHECKING:  # transformers is slow to import
    from transformers import PreTrainedModel


class ExpertOptions(Options):
    """Options every kind of expert has."""

    name: str = "lora"
    allocation: Literal["per_task", "shared"] | Annotated[int, Field(ge=1, le=1000)] = Field(
        "per_task", description="one expert per task, frozen after it; one shared by all; or a number: a pool every task trains"
    )
    isolated: bool = Field(True, description="earlier experts are switched off while a new one is trained")
    targets: list[str] | None = Field(
        None,
        description="names (or endings of names) of the layers to adapt; null: by kind of model; []: those in layers alone",
    )
    skip: float = Field(0.0, ge=0, lt=1, description="share of the backbone's blocks, from the lowest on, that get no experts")
    start: dict[str, str] = Field(
        {},
        description="saved experts to begin with, not with random values, by name of the task (or shared, pool-0, ...): "
        "RUN/EXPERT, a folder in peft's format, or a hub id (OWNER/NAME or OWNER/NAME@REVISION)",
    )
    layers: list[str] = Field(
        [], description="names of layers that are adapted beside targets and skip; those of the experts in start are added"
    )

    @property
    def pool(self) -> list[str]:
        """Names of the experts that every task trains; none where each task has its own."""
        if isinstance(self.allocation, int):
            return [f"pool-{i}" for i in range(self.allocation)]
        return ["shared"][: self.allocation == "shared"]


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

    kind = "expert"
    Options: ClassVar[type[ExpertOptions]] = ExpertOptions
    computation: ClassVar[str]  # what a module is to the backbone, see lab.analysis.taxonomy
    peft_format: ClassVar[bool] = False  # saved as peft saves it, and loadable there, see lab.adapters.peft_folder
    must_agree: ClassVar[tuple[str, ...]] = ()  # options, beside shapes, that experts of one bank have alike; without peft_format

    def __init__(self, options: ExpertOptions):
        self.options = options

    @abstractmethod
    def targets(self, model: "PreTrainedModel") -> Sequence[str] | None:
        """Names of the layers to adapt in this model, or endings of names; "*" for all, None if it is not known."""

    def adapts(self, module: nn.Module, model: "PreTrainedModel") -> bool:
        """Whether this kind can adapt this module of the model; by default linear layers."""
        return is_linear(module)

    @abstractmethod
    def new(self, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
        """Parameters of a fresh expert in one layer; a fresh expert changes nothing."""

    @classmethod
    def options_for(cls, saved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Options with which one bank takes all experts of these plain configurations as they are, in the layers they have.

        Default: what the first of them was saved with; the bank refuses others that do not agree with it.
        """
        own = saved[0].get("expert", {})
        return {name: value for name, value in own.items() if name not in ExpertOptions.model_fields}

    def fitted(self, parameters: dict[str, Tensor], fresh: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        """Parameters, shaped as `fresh` ones, that compute what saved ones of one layer did with their own scale."""
        return parameters

    def shared(self, layers: Sequence[LayerInfo]) -> dict[str, Tensor]:
        """Frozen tensors that all experts and layers share, by name; the bank holds them once. Default: none."""
        return {}

    @abstractmethod
    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        """Output of the adapted layer, in the base layer's dtype.

        base the frozen layer, x (B, T, I) its input, or ids (B, T), stack: parameters with a leading expert axis (E, ...), and
        beside them what is `shared`, w (B|1, T|1, H, E), how "mix" or "merge" -> (B, T, O).
        """

    def positions(self, experts: int, how: str) -> int:
        """Most positions that so many composed experts take of those the backbone has for tokens."""
        return 0

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


class InputExpert(Expert):
    """A kind whose experts stand before the embedded tokens. The one layer it adapts is the embedding of the tokens."""

    @classmethod
    def check(cls, config: Any) -> None:
        refused = [name for name in ("skip", "targets", "layers") if getattr(config.experts, name)]
        if refused:
            raise LabError(f"experts of kind '{cls.name}' stand before the text, in no block: leave out experts.{refused[0]}")

    @classmethod
    def options_for(cls, saved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return super().options_for(saved) | {"targets": None}

    def targets(self, model: "PreTrainedModel") -> Sequence[str]:
        return ["*"]

    def adapts(self, module: nn.Module, model: "PreTrainedModel") -> bool:
        return module is model.get_input_embeddings()

    def output(self, base: nn.Module, x: Tensor, stack: dict[str, Tensor], w: Tensor, how: str) -> Tensor:
        return base(x)

    @abstractmethod
    def before(self, stack: dict[str, Tensor], w: Tensor, how: str) -> tuple[Tensor, Tensor]:
        """What stands before the tokens: vectors (b, P, D) and whether each is there (b, P).

        stack: parameters with a leading expert axis (E, ...), w (b, H, E), how "mix" or "merge".
        """

    def check_heads(self, layer: LayerInfo, heads: int) -> None:
        super().check_heads(LayerInfo(layer.name, layer.outputs, layer.outputs), heads)


def parameters_of(kind: Expert, layer: LayerInfo, generator: torch.Generator) -> dict[str, Tensor]:
    """`Expert.new`; RunFailed for what are no parameters."""
    parameters = kind.new(layer, generator)
    refuse_entries(kind, "new", parameters, Tensor)
    return parameters


def refuse_output(kind: Expert, layer: LayerInfo, x: Tensor, out: Any) -> None:
    """RunFailed for what is no output (B, T, O) of the layer for the input x."""
    if not isinstance(out, Tensor):
        raise RunFailed(wrong_return(kind, "output", out, "a tensor (rows, tokens, width of the layer's output)"))
    if out.shape != (*x.shape[:2], layer.outputs):
        expected = f"(rows {x.shape[0]}, tokens {x.shape[1]}, width {layer.outputs})"
        raise RunFailed(f"expert '{kind.name}' gave output of the shape {tuple(out.shape)} in {layer.name}: expected {expected}")


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer, transformers' Conv1D (GPT-2) among them."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def uniform(shape: Sequence[int], bound: float, generator: torch.Generator) -> Tensor:
    """U(-bound, bound) from the expert's own generator."""
    return nn.init.uniform_(torch.empty(*shape), -bound, bound, generator=generator)
