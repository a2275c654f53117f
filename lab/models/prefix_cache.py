"""The frozen blocks below the first expert, computed once per row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from torch import Tensor, nn

from lab.data.batching import Encoded


class Lower:
    """The blocks below the first expert. They are frozen, so what they make of a row need not be computed twice.

    `states_of` holds the hidden states (T, D) of rows as they leave the last of these blocks.
    """

    def __init__(self, blocks: nn.ModuleList, first: int, limit: int = 2**29):
        """The blocks before `first` are the lower ones; `limit`: bytes of states that are kept at most."""
        self.states_of: dict[tuple[int, str, int], Tensor] = {}
        self.limit = limit
        self.states: Tensor | None = None  # (B, T, D) of the batch on its way, if all of its rows are known
        self.seen: list[Tensor] | None = None
        self.blocks = blocks[:first]
        for block in self.blocks[:-1]:
            block.forward = partial(self._pass, block.forward)
        self.blocks[-1].forward = partial(self._leave, self.blocks[-1].forward)

    def remove(self) -> None:
        """Leave the blocks as they were."""
        for block in self.blocks:
            del block.forward

    @classmethod
    def of(cls, model: nn.Module, layer: str) -> "Lower | None":
        """None where experts begin in the first block, or where blocks do not stand in a list."""
        path = layer.split(".")
        number = next((i for i, part in enumerate(path) if part.isdigit()), None)
        blocks = model.get_submodule(".".join(path[:number])) if number is not None else None
        if number is None or not isinstance(blocks, nn.ModuleList):
            return None
        first = int(path[number])
        return cls(blocks, first) if first else None

    def has_room(self, rows: Sequence[Encoded], width: int, lasting: bool) -> bool:
        """Whether the states of these rows, float32 of this width, may be kept: `lasting` ones beside those that are there.

        Others are judged alone, so that what training computes with does not depend on what was evaluated before it.
        """
        kept = sum(state.numel() for state in self.states_of.values()) if lasting else 0
        return 4 * (kept + width * sum(len(row.ids) for row in rows)) <= self.limit

    def forget(self, rows: Sequence[Encoded]) -> None:
        for row in rows:
            self.states_of.pop(row.key, None)

    @contextmanager
    def serve(self, keys: Sequence[tuple[int, str, int]]) -> Iterator[None]:
        """Inside the block, a batch of these rows is not computed in the lower blocks if all of them are known."""
        if self.seen is None and all(key in self.states_of for key in keys):
            self.states = nn.utils.rnn.pad_sequence([self.states_of[key] for key in keys], batch_first=True)  # (B, T, D)
        try:
            yield
        finally:
            self.states = None

    @contextmanager
    def capture(self) -> Iterator[list[Tensor]]:
        """Inside the block, what leaves the lower blocks is put in a list, and the blocks above are not computed."""
        self.seen = []
        try:
            with suppress(_Enough):
                yield self.seen
        finally:
            self.seen = None

    def _pass(self, forward: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden if self.states is not None else forward(hidden, *args, **kwargs)

    def _leave(self, forward: Callable[..., Tensor], hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.states is not None:
            return self.states
        left = forward(hidden, *args, **kwargs)
        if self.seen is not None:
            self.seen.append(left)
            raise _Enough
        return left


class _Enough(Exception):
    """The rest of a forward pass is not needed."""
