"""Backbones by name."""

from dataclasses import dataclass

from torch import nn

from ray_tl.models.stages import Normalisation, StagedBackbone
from ray_tl.registry import Registry


@dataclass(frozen=True)
class BackboneContext:
    """What the system tells a backbone.

    Attributes:
        channels: Of the images, 1 or 3.
        load_weights: Whether to load pretrained weights; not when a checkpoint or bundle follows.
    """

    channels: int = 3
    load_weights: bool = True


BACKBONES: Registry[StagedBackbone] = Registry("backbone")


@BACKBONES.register("small_cnn", ranges={"width": {"choice": [16, 32]}})
def small_cnn(context: BackboneContext, *, width: int = 32) -> StagedBackbone:
    """Four small convolution stages without pretrained weights, for digits, tests and first steps.

    Args:
        width: Channels of the first stage; doubled twice.
    """
    widths = [context.channels, width, 2 * width, 4 * width]
    blocks = [_block(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    half = (0.5,) * context.channels
    return StagedBackbone(
        [*blocks, _pool(widths[-1], 128)], ["conv1", "conv2", "conv3", "pool"], 128, Normalisation(half, half)
    )


def _block(num_in: int, num_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU(), nn.MaxPool2d(2)
    )


def _pool(num_in: int, num_out: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * num_in, num_out), nn.ReLU())
