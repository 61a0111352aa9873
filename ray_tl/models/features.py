"""What of the backbone's activations becomes features: its last stage alone, or several stages side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ray_tl.errors import InvalidInput
from ray_tl.models.sequences import max_of_tokens, mean_of_tokens
from ray_tl.models.stages import StagedBackbone
from ray_tl.registry import Registry

Pooling = Literal["mean", "max", "attention", "all"]

REDUCTION = 16
MIN_HIDDEN = 4


@dataclass(frozen=True)
class FeaturesContext:
    """What the system tells features when they are built.

    Attributes:
        backbone: Whose stages are tapped; it is left as it is.
        backbone_name: For messages.
    """

    backbone: StagedBackbone
    backbone_name: str = "backbone"


class Features(nn.Module):
    """Runs a backbone and gives the pooled outputs of some of its stages, then its own features, [N, `feature_dim`].

    Args:
        taps: For the last stages before the final one, in order: what makes rows [N, D] of their outputs.
        num_stages: Of the backbone.
        feature_dim: Width of all that is given.

    Attributes:
        max_start: Stages before the first tap: activations may enter there or earlier, but not later.
    """

    def __init__(self, taps: Sequence[nn.Module], num_stages: int, feature_dim: int) -> None:
        super().__init__()
        self.taps = nn.ModuleList(taps)
        self.feature_dim = feature_dim
        self.max_start = num_stages - len(taps)

    def forward(self, backbone: StagedBackbone, x: Tensor, start: int = 0) -> Tensor:
        """Normalised images [N, C, H, W], or activations before stage `start` <= `max_start`, to features."""
        assert start <= self.max_start
        x = backbone(x, start, self.max_start)
        tapped = []
        for stage, tap in enumerate(self.taps, self.max_start):
            tapped.append(tap(x))
            x = backbone(x, stage, stage + 1)
        return torch.cat([*tapped, x], dim=1) if tapped else x


FEATURES: Registry[Features] = Registry("features")


@FEATURES.register("last")
def last(context: FeaturesContext) -> Features:
    """The backbone's own features, those of its last stage."""
    return Features([], context.backbone.num_stages, context.backbone.feature_dim)


@FEATURES.register(
    "multi_scale",
    ranges={"num_taps": {"int": [1, 3]}, "pooling": {"choice": ["mean", "max", "attention", "all"]}},
)
def multi_scale(context: FeaturesContext, *, num_taps: int = 2, pooling: Pooling = "all") -> Features:
    """The pooled outputs of the last stages before the final one, beside the backbone's own features.

    Features of shallow stages carry over to other domains better than those of deep ones (Yosinski et al., "How
    transferable are features in deep neural networks?", 2014, https://arxiv.org/abs/1411.1792). Scales of taps differ
    as those of the stages do: a `bottleneck` with normalisation evens them out. Outputs that are rows [N, D] already
    are taken as they are. Attention is trained at the learning rate of the head.

    Args:
        context: Gives the backbone.
        num_taps: Stages that are tapped, at least 1 and less than the backbone has.
        pooling: Over the positions of a feature map: `mean`, `max`, `attention` (see `AttentionPool`), or `all` three.
    """
    backbone = context.backbone
    if not 1 <= num_taps < backbone.num_stages:
        most = backbone.num_stages - 1
        raise InvalidInput(
            f"multi_scale.num_taps={num_taps} does not fit {context.backbone_name!r}, "
            f"which has {most} stages before its last; choose 1..{most}."
        )
    taps = [_Tap(shape, pooling) for shape in stage_shapes(backbone)[-1 - num_taps : -1]]
    return Features(taps, backbone.num_stages, sum(tap.feature_dim for tap in taps) + backbone.feature_dim)


class MeanPool(nn.Module):
    """Mean of each channel over positions, [N, C, H, W] or texts [N, L, C] to [N, C]."""

    def forward(self, maps: Tensor) -> Tensor:
        return _mean(maps)


class MaxPool(nn.Module):
    """Largest value of each channel over positions, [N, C, H, W] or texts [N, L, C] to [N, C]."""

    def forward(self, maps: Tensor) -> Tensor:
        return _max(maps)


class AttentionPool(nn.Module):
    """Mean of each channel times its attention, sigmoid(W1 relu(W0 mean) + W1 relu(W0 max)); [N, C, H, W] to [N, C].

    Woo et al., "CBAM: Convolutional Block Attention Module", 2018, https://arxiv.org/abs/1807.06521, eq. 2, with their
    reduction of 16. Departures: at least 4 hidden units, so that narrow stages keep some that are not dead; the
    weighted map is pooled by its mean and goes nowhere else, so the backbone computes what it did before.

    Args:
        num_channels: C.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        hidden = max(MIN_HIDDEN, num_channels // REDUCTION)
        self.squeeze = nn.Linear(num_channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, num_channels, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        mean = _mean(maps)
        return mean * (self._judge(mean) + self._judge(_max(maps))).sigmoid()

    def _judge(self, pooled: Tensor) -> Tensor:
        judged: Tensor = self.expand(self.squeeze(pooled).relu())
        return judged


class _Tap(nn.Module):
    """Outputs of a stage to rows [N, `feature_dim`]: one or several pools side by side.

    Args:
        shape: Of the outputs: [1, C, H, W], texts [1, L, D], or [1, D] if they are rows already.
        pooling: Of feature maps.
    """

    def __init__(self, shape: torch.Size, pooling: Pooling) -> None:
        super().__init__()
        names: list[Pooling] = ["mean", "max", "attention"] if pooling == "all" else [pooling]
        width = shape[-1] if len(shape) == 3 else shape[1]
        pools = [nn.Identity()] if len(shape) == 2 else [_pool(name, width) for name in names]
        self.pools = nn.ModuleList(pools)
        self.feature_dim = width * len(pools)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([pool(x) for pool in self.pools], dim=1)


def _mean(maps: Tensor) -> Tensor:
    return mean_of_tokens(maps) if maps.ndim == 3 else maps.mean((2, 3))


def _max(maps: Tensor) -> Tensor:
    return max_of_tokens(maps) if maps.ndim == 3 else maps.amax((2, 3))


def _pool(name: Pooling, num_channels: int) -> nn.Module:
    if name == "attention":
        return AttentionPool(num_channels)
    return MeanPool() if name == "mean" else MaxPool()


@torch.no_grad()
def stage_shapes(backbone: StagedBackbone) -> list[torch.Size]:
    """Of what each stage gives for one blank row: [1, C, H, W], texts [1, L, D], or [1, D] where it is pooled."""
    was_training = backbone.training
    backbone.eval()
    x = backbone.entry(backbone.entry.blank())
    shapes = []
    for stage in range(backbone.num_stages):
        x = backbone(x, stage, stage + 1)
        shapes.append(x.shape)
    backbone.train(was_training)
    return shapes
