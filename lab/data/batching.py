"""Encoded examples and batches of them. A batch is made from any list of examples, so it may mix tasks."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

UNLABELLED = -100  # label of a row that only rides along: losses over labels leave it out (torch's ignore_index)


class Encoded(NamedTuple):
    """One tokenised example; `key` = (task, split, row) names it for caches and predictions.

    Of a task of free text: `target` the tokens to write, `answers` the texts that are right.
    """

    ids: list[int]
    types: list[int]
    label: int  # within its task, or UNLABELLED
    task: int
    key: tuple[int, str, int]
    target: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()


class Batch(NamedTuple):
    """Rows of one or several tasks, padded to the longest. B rows, T tokens, S tokens of the longest target."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) int64, 1 where there is a token
    types: Tensor  # (B, T) int64
    label: Tensor  # (B,) int64, within the task, or UNLABELLED; of free text (B, S): tokens, and UNLABELLED behind them
    task: Tensor  # (B,) int64
    keys: list[tuple[int, str, int]]
    answers: list[tuple[str, ...]]  # of free text: what is right


def collate(rows: Sequence[Encoded], pad: int, device: torch.device | str = "cpu", side: str = "right") -> Batch:
    """Pad rows on a side and stack them. Padding on the left is for decoders that go on from the texts."""
    ids = padded([row.ids for row in rows], pad, side)  # (B, T)
    mask = padded([[1] * len(row.ids) for row in rows], 0, side)  # (B, T)
    types = padded([row.types for row in rows], 0, side)  # (B, T)
    label, task = torch.tensor([row.label for row in rows]), torch.tensor([row.task for row in rows])  # (B,)
    if any(row.target for row in rows):
        targets = [[] if row.label == UNLABELLED else row.target for row in rows]
        label = padded(targets, UNLABELLED, "right")  # (B, S)
    tensors = (tensor.to(device, non_blocking=True) for tensor in (ids, mask, types, label, task))
    return Batch(*tensors, keys=[row.key for row in rows], answers=[row.answers for row in rows])


def padded(rows: Sequence[Sequence[int]], value: int, side: str) -> Tensor:
    """(B, width of the longest row), filled up with `value` on the left or the right."""
    fill = [[value] * (max(map(len, rows)) - len(row)) for row in rows]
    return torch.tensor([[*f, *row] if side == "left" else [*row, *f] for row, f in zip(rows, fill, strict=True)])


def shuffled(rows: Sequence[Encoded], size: int, generator: torch.Generator) -> list[list[int]]:
    """Indices of all rows in random batches; rows of a batch are of similar length, so that little is padded.

    The rows are shuffled, sorted by length within stretches of eight batches, cut, and the batches shuffled.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    stretches = (order[i : i + 8 * size] for i in range(0, len(order), 8 * size))
    ordered = [i for stretch in stretches for i in sorted(stretch, key=lambda i: len(rows[i].ids))]
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


class EpochBatches:
    """Batches of the same rows, passed over again and again; the order of an epoch is drawn once, when it is first asked for."""

    def __init__(self, rows: Sequence[Encoded], size: int, generator_of: Callable[[int], torch.Generator]):
        """`size` rows in a batch; `generator_of`: the generator of the order of an epoch, by its number."""
        self.rows, self.size, self.generator_of = rows, size, generator_of
        self.epoch: int | None = None
        self.order: list[list[int]] = []

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.rows) // self.size)

    def at(self, step: int) -> list[Encoded]:
        """The rows of a step, counted from 0 over all epochs."""
        epoch, number = divmod(step, len(self))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, shuffled(self.rows, self.size, self.generator_of(epoch))
        return [self.rows[i] for i in self.order[number]]


def by_length(rows: Sequence[Encoded], size: int) -> Iterator[list[int]]:
    """Indices of rows in chunks of `size` and similar length, so that little is padded; for evaluation."""
    ordered = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
