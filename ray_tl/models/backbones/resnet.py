"""Residual networks, by torchvision, which is imported inside the functions: it takes seconds."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, IMAGENET, BackboneContext, mean_pool
from ray_tl.models.backbones.torchvision import Weights, prepare_torchvision
from ray_tl.models.stages import ImageEntry, StagedBackbone

if TYPE_CHECKING:
    from torchvision.models import ResNet


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


def _resnet(
    name: str, build: "Callable[[], ResNet]", url: str, context: BackboneContext, weights: Weights
) -> StagedBackbone:
    network = build()
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    prepare_torchvision(name, network, stem, url, context, weights)
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    names = ["stem", "layer1", "layer2", "layer3", "layer4", "pool"]
    return StagedBackbone([stem, *layers, mean_pool()], names, network.fc.in_features, ImageEntry(IMAGENET))
