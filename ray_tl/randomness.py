"""Every random number of a trial from its seed and a name."""

import hashlib

import torch
from torch import Tensor


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^63) that depends on all arguments and on nothing else."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def seed_torch(seed: int) -> None:
    """Seed torch's own generators, of the processor and of what is in use beside it.

    `torch.manual_seed` prepares the seed of every kind of device there might be, and keeps the formatted stack of its
    caller for each: thousands of lines for each augmented image.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def some_rows(num_rows: int, limit: int, seed: int, *names: str | int) -> Tensor:
    """At most so many of the rows, int64; always the same, and at random, because folders are read class by class."""
    return torch.randperm(num_rows, generator=generator(seed, *names))[:limit]
