"""Small networks without pretrained weights: for tests, digits and first steps."""

from itertools import pairwise

from torch import nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones.common import BACKBONES, BackboneContext, mean_pool
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone


@BACKBONES.register("tiny_cnn", ranges={"width": {"choice": [4, 8]}})
def tiny_cnn(context: BackboneContext, *, width: int = 8) -> StagedBackbone:
    """Three stages and about 1,500 parameters without pretrained weights, for tests.

    Args:
        width: Channels of the first stage, >= 1; doubled once.
    """
    _require_width("tiny_cnn", width)
    stages = [_block(context.channels, width), _block(width, 2 * width), mean_pool()]
    return StagedBackbone(stages, ["conv1", "conv2", "pool"], 2 * width, ImageEntry(_half(context.channels)))


@BACKBONES.register("small_cnn", ranges={"width": {"choice": [16, 32]}})
def small_cnn(context: BackboneContext, *, width: int = 32) -> StagedBackbone:
    """Four small convolution stages without pretrained weights, for digits and first steps.

    Args:
        width: Channels of the first stage, >= 1; doubled twice.
    """
    _require_width("small_cnn", width)
    widths = [context.channels, width, 2 * width, 4 * width]
    blocks = [_block(a, b) for a, b in pairwise(widths)]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 128), nn.ReLU())
    return StagedBackbone(
        [*blocks, pool], ["conv1", "conv2", "conv3", "pool"], 128, ImageEntry(_half(context.channels))
    )


def _block(num_in: int, num_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU(), nn.MaxPool2d(2)
    )


def _half(channels: int) -> Normalisation:
    return Normalisation((0.5,) * channels, (0.5,) * channels)


def _require_width(name: str, width: int) -> None:
    if width < 1:
        raise InvalidInput(f"{name}.width={width} is too narrow; choose 1 or more.")
