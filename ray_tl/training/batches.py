"""Which rows make which step: the same joint batches on any number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_tl.training.randomness import generator


@dataclass(frozen=True)
class Step:
    """One step of one rank.

    Attributes:
        source_rows: Rows of the source, [B / W].
        target_rows: Rows of the target, [B / W].
        labelled_rows: Rows of the labelled target examples, [B / W]; none if there are none.
        source_before: The row that comes before these of the source in the joint batch, [1]; its last before its first.
        share: Which rows of the joint batch of B these are.
        total: B.
    """

    source_rows: Tensor
    target_rows: Tensor
    labelled_rows: Tensor
    source_before: Tensor
    share: slice
    total: int

    def places_from_before(self) -> Tensor:
        """Places in the joint batch of `source_before` and of these rows, [1 + B / W]."""
        return torch.arange(self.share.start - 1, self.share.stop) % self.total


@dataclass(frozen=True)
class PairedBatches:
    """Joint batches of equal size from two domains; the shorter domain is repeated, the rest dropped.

    Args:
        num_source: N, rows of the source; an epoch is one pass over them.
        num_target: M, rows of the target.
        batch_size: B, of each domain over all ranks; cut to what the domains and the number of ranks allow.
        rank: Of this process, in [0, world_size).
        world_size: W.
        seed: Of the trial.
        num_labelled: Labelled examples of the target; repeated as often as needed.
    """

    num_source: int
    num_target: int
    batch_size: int
    rank: int
    world_size: int
    seed: int
    num_labelled: int = 0

    @property
    def per_rank(self) -> int:
        return max(1, min(self.batch_size, self.num_source, self.num_target) // self.world_size)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.num_source // (self.per_rank * self.world_size))

    def epoch(self, epoch: int) -> Iterator[Step]:
        """The steps of an epoch (counted from 0), a function of seed and epoch alone."""
        total = self.per_rank * self.world_size
        share = slice(self.rank * self.per_rank, (self.rank + 1) * self.per_rank)
        source = self._rows("source", self.num_source, epoch, total)
        target = self._rows("target", self.num_target, epoch, total)
        labelled = self._rows("target_labelled", self.num_labelled, epoch, total)
        for step in range(self.steps_per_epoch):
            joint = slice(step * total, (step + 1) * total)
            mine = source[joint][share], target[joint][share], labelled[joint][share]
            yield Step(*mine, source[joint].roll(1)[share][:1], share, total)

    def _rows(self, domain: str, num_rows: int, epoch: int, total: int) -> Tensor:
        if num_rows == 0:
            return torch.empty(0, dtype=torch.int64)
        random = generator(self.seed, "batches", domain, epoch)
        needed = self.steps_per_epoch * total
        passes = -(-needed // num_rows)
        return torch.cat([torch.randperm(num_rows, generator=random) for _ in range(passes)])[:needed]
