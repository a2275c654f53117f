"""One generator per use of chance, keyed by content, never by position: adding a consumer changes no other's draws."""

import hashlib

import torch


def seed_of(*key: object) -> int:
    """A 63-bit seed from the words of a key."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by the key, for example generator(seed, "order", task, epoch)."""
    return torch.Generator().manual_seed(seed_of(*key))
