"""What an adapted layer is given at its calls in a pass of the model, and how its rows are told apart.

Most layers are given (B, T, I) once. Others get the tokens of all rows one behind the other (older OPT), tokens before rows
(Longformer), one vector a row (a pooler), are called again and again (ALBERT), or read what all rows share (the relative
positions of DeBERTa).
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.core.errors import LabError

LEAVE_OUT = "leave it out of experts.targets"


class Call(NamedTuple):
    """One call of a layer.

    `axis` of its input along which the rows of the batch stand, each with as many vectors as it has there; None: all rows share
    the input. `vectors` of a row when texts were tried.
    """

    axis: int | None = 0
    vectors: int = 1

    def by_row(self, x: Tensor, rows: int | None, layer: str) -> Tensor:
        """The input x as (B, N, I), or ids as (B, N), with B = 1 where it is shared.

        `rows` of the decision; None: they are those of x. The beams of a row, side by side, are one row.
        """
        features = x.shape[-1:] if x.is_floating_point() else ()
        if self.axis is None:
            return x.reshape(1, -1, *features)
        x = x.transpose(0, self.axis) if self.axis else x
        rows = len(x) if rows is None else rows
        if len(x) % rows:
            raise LabError(f"the routing decision is for {rows} rows, layer {layer} was given {len(x)}")
        return x if len(x) == rows and x.dim() == 2 + len(features) else x.reshape(rows, -1, *features)

    def as_given(self, out: Tensor, x: Tensor) -> Tensor:
        """The output (B, N, O) in the shape of the layer's input x; what rows make of an input that they share is `OfRows`."""
        x = x.transpose(0, self.axis) if self.axis else x
        inner = x.shape[:-1] if x.is_floating_point() else x.shape
        if self.axis is None and len(out) > 1:
            return out.reshape(len(out), *(inner[1:] if inner[0] == 1 else inner), -1).as_subclass(OfRows)
        out = out.reshape(*inner, -1)
        return out.transpose(0, self.axis).contiguous() if self.axis else out


def calls_of(layer: str, two: Sequence[tuple[int, ...]], three: Sequence[tuple[int, ...]]) -> list[Call]:
    """The calls of a layer in a pass, from the shapes of its inputs for two texts and for three that are padded alike.

    Raises LabError, naming the layer and the shapes, where they do not grow with the number of texts.
    """
    calls = [_call(small, large) for small, large in zip(two, three, strict=False)]
    if len(two) != len(three) or None in calls:
        raise LabError(
            f"layer {layer} cannot have experts: for two texts it was given {_shapes(two)}, for three {_shapes(three)}, which "
            f"are not the tokens of these texts (a mixture of experts deals tokens out to its own): {LEAVE_OUT}"
        )
    return [call for call in calls if call]


def _call(two: tuple[int, ...], three: tuple[int, ...]) -> Call | None:
    """None: not understood."""
    if two == three:
        return Call(None, prod(two[:-1]))
    axes = [axis for axis, sizes in enumerate(zip(two, three, strict=False)) if len(set(sizes)) > 1]
    if len(two) != len(three) or len(axes) > 1 or axes[0] == len(two) - 1:
        return None
    axis = axes[0]
    grows = 3 * two[axis] == 2 * three[axis] and (axis == 0 or (axis, two[axis], len(two)) == (1, 2, 3))
    return Call(axis, prod(two[:-1]) // 2) if grows else None


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "nothing"


class OfRows(Tensor):
    """What every row makes of an input that all rows share: (B, ...) where the model expects (1, ...) and may repeat it for them.

    As long as it is only reshaped it stays what it is, and its repetition along the first axis is left out: the rows are there.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.repeat:
                x, *times = args
                _, *others = times[0] if isinstance(times[0], Sequence) else times
                return x.repeat(1, *others)
            out = func(*args, **kwargs or {})
        return out.as_subclass(cls) if func in _RESHAPING else out


_RESHAPING = (Tensor.view, Tensor.reshape, Tensor.permute, Tensor.transpose, Tensor.contiguous)
