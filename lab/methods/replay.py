"""Experience replay: stored examples of past tasks join every batch (Chaudhry et al. 2019)."""

import torch
from pydantic import Field

from lab.core.registry import Options
from lab.data.batching import Encoded
from lab.methods.base import Method


class ReplayOptions(Options):
    name: str = "replay"
    per_step: int = Field(16, ge=1, le=4096, description="stored examples added to the batch of each step")


class Replay(Method):
    """Stored examples of past tasks join every batch; the memory is filled after each task."""

    name = "replay"
    Options = ReplayOptions
    options: ReplayOptions
    uses_memory = True

    @classmethod
    def examples_of(cls, options: ReplayOptions, own: int, stored: int) -> tuple[int, int]:
        return own, min(options.per_step, stored)

    def rows(self, rows: list[Encoded], generator: torch.Generator) -> list[Encoded]:
        return rows + self.memory.sample(self.options.per_step, generator)
