"""Every random number of a trial from its seed and a name."""

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^63) that depends on all arguments and on nothing else."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
