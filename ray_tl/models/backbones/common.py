"""What every family of backbones shares: the registry, the context, and what is known without building."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from ray_tl.config import Component
from ray_tl.models.stages import Normalisation, StagedBackbone
from ray_tl.registry import Registry

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5,) * 3, (0.5,) * 3)
IMAGE_SIZE = 224


@dataclass(frozen=True)
class BackboneContext:
    """What the system tells a backbone.

    Attributes:
        channels: Of the images, 1 or 3.
        load_weights: Whether to load pretrained weights; not when a checkpoint or bundle follows.
        image_size: Side of the images in pixels; counts for networks with a position embedding.
        architecture: What `StagedBackbone.architecture` was when the network was trained; then no folder or hub is
            asked what the network looks like. `None` where nothing was recorded.
    """

    channels: int = 3
    load_weights: bool = True
    image_size: int = IMAGE_SIZE
    architecture: Mapping[str, object] | None = None


BACKBONES: Registry[StagedBackbone] = Registry("backbone")


def num_stages(backbone: Component, channels: int, image_size: int = IMAGE_SIZE) -> int:
    """Depth of the backbone that a configuration names; reads no weights and allocates no memory for them.

    Raises:
        InvalidInput: As `build_transfer_model`.
    """
    return _sizes(backbone.model_dump_json(), channels, image_size)[0]


def feature_dim(backbone: Component, channels: int, image_size: int = IMAGE_SIZE) -> int:
    """Width of the features of the backbone that a configuration names, as cheaply as `num_stages`."""
    return _sizes(backbone.model_dump_json(), channels, image_size)[1]


@cache  # every corner of a search space asks
def _sizes(backbone: str, channels: int, image_size: int) -> tuple[int, int]:
    """Depth and width of a backbone that is given as JSON, which can be a key."""
    component = Component.model_validate_json(backbone)
    with torch.device("meta"):
        built = BACKBONES.create(component.name, component.params, BackboneContext(channels, False, image_size))
    return built.num_stages, built.feature_dim


def mean_pool() -> nn.Module:
    """The mean of each channel, [N, C, H, W] to [N, C]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
