"""Which rows make which step: the same joint batches on any number of ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.randomness import generator


@dataclass(frozen=True)
class Step:
    """One step of one rank, or one micro-batch of it.

    Attributes:
        source_rows: Rows of the source, [B / (K W)].
        target_rows: Rows of the target, [B / (K W)].
        labelled_rows: Rows of the labelled target examples, [B / (K W)]; none if there are none.
        auxiliary_rows: Rows of the auxiliary task, [B / (K W)]; none if there is none.
        source_before: The row that comes before these of the source in the joint batch, [1]; its last before its first.
        share: Which rows of the joint batch of B these are.
        total: B.
    """

    source_rows: Tensor
    target_rows: Tensor
    labelled_rows: Tensor
    auxiliary_rows: Tensor
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
        num_source: N, rows of the source; an epoch is one pass over them, or several.
        num_target: M, rows of the target.
        batch_size: B, of each domain over all ranks; cut to what the domains and the number of ranks allow.
        rank: Of this process, in [0, world_size).
        world_size: W.
        seed: Of the trial.
        num_labelled: Labelled examples of the target; repeated as often as needed.
        num_auxiliary: Examples of another task; repeated as often as needed.
        accumulation: K, micro-batches of a step. Each is a joint batch of its own, the same on any number of ranks.
        draw_source: So many rows of the source for an epoch, drawn otherwise than in passes over it.
        least_steps: Of an epoch; where one pass has fewer, as many more passes as that takes.
    """

    num_source: int
    num_target: int
    batch_size: int
    rank: int
    world_size: int
    seed: int
    num_labelled: int = 0
    num_auxiliary: int = 0
    accumulation: int = 1
    draw_source: Callable[[int, torch.Generator], Tensor] | None = None
    least_steps: int = 1

    @property
    def per_rank(self) -> int:
        """Rows of each domain in one micro-batch of one rank."""
        return max(1, min(self.batch_size, self.num_source, self.num_target) // (self.world_size * self.accumulation))

    @property
    def per_step(self) -> int:
        """Rows of each domain in one step, over all ranks."""
        return self.per_rank * self.world_size * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        return max(self.least_steps, self.num_source // self.per_step)

    def steps(self, epoch: int) -> Iterator[list[Step]]:
        """The micro-batches of each step of an epoch."""
        parts = list(self.epoch(epoch))
        for first in range(0, len(parts), self.accumulation):
            yield parts[first : first + self.accumulation]

    def epoch(self, epoch: int) -> Iterator[Step]:
        """The steps of an epoch (counted from 0), micro-batch by micro-batch; a function of seed and epoch alone."""
        total, micro = self.per_step, self.per_rank * self.world_size
        source = self._rows("source", self.num_source, epoch, total)
        target = self._rows("target", self.num_target, epoch, total)
        labelled = self._rows("target_labelled", self.num_labelled, epoch, total)
        auxiliary = self._rows("auxiliary", self.num_auxiliary, epoch, total)
        for step, part in product(range(self.steps_per_epoch), range(self.accumulation)):
            joint = slice(step * total, (step + 1) * total)
            first = part * micro + self.rank * self.per_rank
            share = slice(first, first + self.per_rank)
            mine = source[joint][share], target[joint][share], labelled[joint][share], auxiliary[joint][share]
            yield Step(*mine, source[joint].roll(1)[share][:1], share, total)

    def _rows(self, domain: str, num_rows: int, epoch: int, total: int) -> Tensor:
        if num_rows == 0:
            return torch.empty(0, dtype=torch.int64)
        random = generator(self.seed, "batches", domain, epoch)
        needed = self.steps_per_epoch * total
        if domain == "source" and self.draw_source is not None:
            return self.draw_source(needed, random)
        passes = -(-needed // num_rows)
        return torch.cat([torch.randperm(num_rows, generator=random) for _ in range(passes)])[:needed]


def least_steps_of_an_epoch(config: TrialConfig) -> int:
    """Of one in which the head alone trains, so that all of a trial's epochs together have its `min_steps`.

    A step costs next to nothing there, and a head that is trained for 144 of them is not what a method can do: papers
    train for thousands. Where stages train too, an epoch stays one pass: its steps are what a search costs.
    """
    return 1 if config.min_steps is None else -(-config.min_steps // config.epochs)


def check_accumulation(config: TrialConfig) -> None:
    """Whether a step can be parted into so many micro-batches.

    Raises:
        InvalidInput: If one would hold a single example, which batch normalisation can't take.
    """
    if config.accumulation > 1 and config.batch_size // config.accumulation < 2:
        raise InvalidInput(
            f"accumulation={config.accumulation} leaves a micro-batch less than 2 of batch_size={config.batch_size} "
            f"examples; choose up to {config.batch_size // 2}, or a larger batch_size."
        )
