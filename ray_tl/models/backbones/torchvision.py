"""What torchvision's networks share: their weights, and the number of channels of their first convolution."""

from typing import Literal

from torch import nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones.common import BackboneContext
from ray_tl.models.pretrained import load_torchvision

Weights = Literal["imagenet", "none"]


def prepare_torchvision(
    name: str, network: nn.Module, stem: nn.Sequential, url: str, context: BackboneContext, weights: Weights
) -> None:
    """Load a whole torchvision network, or fit its first convolution to the channels of the images."""
    require_colour(name, context, weights)
    if weights == "imagenet" and context.load_weights:
        load_torchvision(network, name, url)
    if context.channels != 3:
        _fit_channels(stem[0], context.channels)


def require_colour(name: str, context: BackboneContext, weights: Weights) -> None:
    if weights == "imagenet" and context.channels != 3:
        raise InvalidInput(
            f"channels={context.channels} does not fit {name!r}, whose ImageNet weights expect 3; "
            f"set channels: 3 (grey images are repeated), or weights: none."
        )


def _fit_channels(conv: nn.Module, channels: int) -> None:
    """Keep the first input channels of a random convolution: its scale depends on the output channels alone."""
    assert isinstance(conv, nn.Conv2d)
    conv.in_channels = channels
    conv.weight = nn.Parameter(conv.weight.detach()[:, :channels].clone())
