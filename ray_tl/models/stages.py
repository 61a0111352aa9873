"""The one definition of depth: an ordered list of stages."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        assert len(self.names) == len(self.stages)

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages `start` to `stop` (exclusive); normalised images [N, C, H, W] in, features [N, D] out."""
        for stage in self.stages[start:stop]:
            x = stage(x)
        return x
