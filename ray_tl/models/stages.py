"""The one definition of depth: an ordered list of stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of images scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class StagedBackbone(nn.Module):
    """A backbone as ordered stages, the last of which gives pooled features [N, D].

    Freezing, learning-rate multipliers, unfreezing and the cut of a cache all count in these stages:
    `f(x)` equals `f(f(x, stop=k), start=k)` at every depth k.

    Frozen stages stay in evaluation mode whatever `train()` says, so that their normalisation statistics don't move.

    Args:
        stages: In the order of the forward pass; together they hold every parameter.
        names: One for each stage, for tables.
        feature_dim: D.
        normalisation: Of the images that the first stage expects.
    """

    def __init__(
        self, stages: Sequence[nn.Module], names: Sequence[str], feature_dim: int, normalisation: Normalisation
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.names = tuple(names)
        self.feature_dim = feature_dim
        self.normalisation = normalisation
        self.freeze_depth = 0
        assert len(self.names) == len(self.stages)

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages `start` to `stop` (exclusive); normalised images [N, C, H, W] in, features [N, D] out."""
        for stage in self.stages[start:stop]:
            x = stage(x)
        return x

    def freeze(self, depth: int) -> None:
        """Freeze stages [0, depth) and unfreeze the others."""
        assert 0 <= depth <= self.num_stages
        self.freeze_depth = depth
        for number, stage in enumerate(self.stages):
            stage.requires_grad_(number >= depth)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for stage in self.stages[: self.freeze_depth]:
            stage.eval()
        return self
