"""Layers between backbone and head, in which domains are aligned: the feature adaptor."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ray_tl.collectives import rank, world_size
from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry

Normalisation = Literal["batch", "layer", "none"]
Activation = Literal["relu", "gelu", "tanh", "none"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "none": nn.Identity}


@dataclass(frozen=True)
class AdaptorContext:
    """What an adaptor may know when it is built.

    Attributes:
        feature_dim: D, width of the features that come in.
    """

    feature_dim: int


class Adaptor(nn.Module):
    """Features [N, D] to features [N, `feature_dim`]; methods and head see the latter."""

    def __init__(self, feature_dim: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        adapted: Tensor = self.layers(features)
        return adapted


ADAPTORS: Registry[Adaptor] = Registry("feature adaptor")


@ADAPTORS.register("none")
def no_adaptor(context: AdaptorContext) -> Adaptor:
    """The backbone's features as they are."""
    return Adaptor(context.feature_dim, [])


@ADAPTORS.register(
    "bottleneck",
    ranges={
        "width": {"choice": [64, 128, 256, 512]},
        "dropout": {"uniform": [0.0, 0.5]},
        "norm": {"choice": ["batch", "layer", "none"]},
        "activation": {"choice": ["relu", "gelu", "tanh", "none"]},
    },
)
def bottleneck(
    context: AdaptorContext,
    *,
    width: int = 256,
    dropout: float = 0.0,
    norm: Normalisation = "batch",
    activation: Activation = "relu",
) -> Adaptor:
    """A linear layer, normalisation, activation and dropout, as most adaptation methods put before alignment.

    Long et al., "Learning Transferable Features with Deep Adaptation Networks", 2015, https://arxiv.org/abs/1502.02791,
    adapt such task-specific layers; linear with batch normalisation is the bottleneck of SHOT (Liang et al., 2020,
    https://arxiv.org/abs/2002.08546, section 3.1).

    Args:
        context: Gives the width of the features that come in.
        width: Features that come out, >= 1.
        dropout: Share of them set to 0 in training, in [0, 1).
        norm: `batch` (over all ranks), `layer` or `none`.
        activation: `relu`, `gelu`, `tanh` or `none`.
    """
    if width < 1:
        raise InvalidInput(f"bottleneck.width={width} is too narrow; choose 1 or more, 256 is usual.")
    if not (math.isfinite(dropout) and 0 <= dropout < 1):
        raise InvalidInput(f"bottleneck.dropout={dropout} is out of range; choose 0 up to, not including, 1.")
    norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    layers: list[nn.Module] = [nn.Linear(context.feature_dim, width)]
    layers += [norms[norm](width)] if norm != "none" else []
    return Adaptor(width, [*layers, _ACTIVATIONS[activation](), JointDropout(dropout)])


class JointDropout(nn.Module):
    """Dropout that is the same on any number of ranks: each draws for the joint batch and takes its own rows.

    Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html. The ranks' generators must be in the same
    state, as the training loop seeds them.

    Args:
        share: Probability of being set to 0, in [0, 1); the rest is scaled by 1 / (1 - share).

    Attributes:
        num_views: Equally long batches that were joined into one, each of which is divided over the ranks.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.num_views = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        rows = len(x) // self.num_views
        draws = torch.rand(self.num_views, rows * world_size(), *self.shape_of_draws(x), device=x.device)
        mine = draws[:, rank() * rows : (rank() + 1) * rows].flatten(0, 1)
        return x * (mine >= self.share) / (1 - self.share)

    def shape_of_draws(self, x: Tensor) -> tuple[int, ...]:
        """Of the draws for one row."""
        return x.shape[1:]

    def extra_repr(self) -> str:
        return f"share={self.share}"


class JointChannelDropout(JointDropout):
    """`JointDropout` of whole channels, of [N, D], tokens [N, T, D] or maps [N, C, H, W].

    Tompson et al., 2015, https://arxiv.org/abs/1411.4280, section 3.2. Ranks may have different numbers of positions.
    """

    def shape_of_draws(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[1], *[1] * (x.ndim - 2)) if x.ndim > 3 else (*[1] * (x.ndim - 2), x.shape[-1])


def set_num_views(module: nn.Module, num_views: int) -> None:
    """Tell every `JointDropout` in `module` how many views the next batch holds."""
    for part in module.modules():
        if isinstance(part, JointDropout):
            part.num_views = num_views
