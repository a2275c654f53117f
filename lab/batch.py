"""Encoded examples and batches of them. A batch is made from any list of examples, so it may mix tasks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

UNLABELLED = -100  # label of a row that only rides along: losses over labels leave it out (torch's ignore_index)


class Encoded(NamedTuple):
    """One tokenised example; `key` = (task, split, row) names it for caches and predictions."""

    ids: list[int]
    types: list[int]
    label: int  # within its task, or UNLABELLED
    task: int
    key: tuple[int, str, int]


class Batch(NamedTuple):
    """Rows of one or several tasks, padded to the longest. B rows, T tokens."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) int64, 1 where there is a token
    types: Tensor  # (B, T) int64
    label: Tensor  # (B,) int64, within the task, or UNLABELLED
    task: Tensor  # (B,) int64
    keys: list[tuple[int, str, int]]


def collate(rows: Sequence[Encoded], pad: int, device: torch.device | str = "cpu") -> Batch:
    """Pad rows on the right and stack them."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows])  # (B, T)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])  # (B, T)
    types = torch.tensor([row.types + [0] * (width - len(row.types)) for row in rows])  # (B, T)
    label, task = torch.tensor([row.label for row in rows]), torch.tensor([row.task for row in rows])  # (B,)
    tensors = (tensor.to(device, non_blocking=True) for tensor in (ids, mask, types, label, task))
    return Batch(*tensors, keys=[row.key for row in rows])


def shuffled(rows: Sequence[Encoded], size: int, generator: torch.Generator) -> list[list[int]]:
    """Indices of all rows in random batches; rows of a batch are of similar length, so that little is padded.

    The rows are shuffled, sorted by length within stretches of eight batches, cut, and the batches shuffled.
    """
    order = torch.randperm(len(rows), generator=generator).tolist()
    stretches = (order[i : i + 8 * size] for i in range(0, len(order), 8 * size))
    ordered = [i for stretch in stretches for i in sorted(stretch, key=lambda i: len(rows[i].ids))]
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def by_length(rows: Sequence[Encoded], size: int) -> Iterator[list[int]]:
    """Indices of rows in chunks of `size` and similar length, so that little is padded; for evaluation."""
    ordered = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
