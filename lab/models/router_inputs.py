"""What a router is fed with: requests for batches, and queries of examples while no expert acts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.core.errors import LabError
from lab.data.batching import Batch, Encoded
from lab.models.backbone import Backbone, pool
from lab.models.expert_bank import Bank
from lab.routers.base import LayerDecision, Reads, Request, Router


class RouterInputs:
    """Requests and queries for a router, from the frozen backbone.

    Batches of test and validation examples come again after every task, made of the same rows: their queries are computed once.
    """

    def __init__(self, backbone: Backbone, bank: Bank):
        self.backbone, self.bank = backbone, bank
        self.queries: dict[tuple, Tensor] = {}  # by the keys of the batch

    def request(self, router: Router, batch: Batch, noise: torch.Generator | None = None) -> Request:
        """What the router may see of a batch: only what it declares to read. `noise`: given while it is trained."""
        query = self.query(batch) if Reads.QUERY in router.reads else None
        embedded = self.backbone.embedded(batch) if Reads.EMBEDDED in router.reads else None
        return Request(batch.mask, query, batch.task if Reads.TASK in router.reads else None, noise, embedded)

    @torch.no_grad()
    def query(self, batch: Batch) -> Tensor:
        """The frozen backbone's sequence representations (B, D)."""
        if self.bank.slot is not None:
            raise LabError("queries come from the frozen backbone: ask for them before the bank is routed")
        key = tuple(batch.keys)
        if key in self.queries:
            return self.queries[key].to(self.backbone.device)
        query = self.backbone.embed(batch)
        if all(split in ("validation", "test") for _, split, _ in key):
            self.queries[key] = query.cpu()
        return query

    @torch.no_grad()
    def layer_queries(self, router: Router, rows: Sequence[Encoded], size: int = 64) -> list[Tensor]:
        """Per adapted layer, what the router may be fed with on these rows while no expert acts: (N, D) each."""
        batches = [self.backbone.collate(rows[i : i + size]) for i in range(0, len(rows), size)]
        if Reads.QUERY in router.reads:
            return [torch.cat([self.query(batch) for batch in batches])] * len(self.bank.layers)
        pooled: list[list[Tensor]] = [[] for _ in self.bank.layers]
        for batch in batches:

            def silent(layer: int, x: Tensor, mask: Tensor = batch.mask) -> Tensor:
                pooled[layer].append(pool(x.float(), mask, "mean"))
                return x.new_zeros(1, router.heads, len(self.bank))

            with self.bank.routed(LayerDecision(silent, batch.mask)):
                self.backbone.embed(batch)
        return [torch.cat(parts) for parts in pooled]
