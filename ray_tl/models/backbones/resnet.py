"""Residual networks, by torchvision."""

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, BackboneContext, image_entry, mean_pool
from ray_tl.models.backbones.torchvision import create_torchvision, finish_torchvision
from ray_tl.models.stages import StagedBackbone


@BACKBONES.register("resnet18")
def resnet18(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ResNet-18 in six stages, 11.2 million parameters; He et al., 2015, https://arxiv.org/abs/1512.03385.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _resnet("resnet18", context, weights)


@BACKBONES.register("resnet34")
def resnet34(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ResNet-34 in six stages, 21.3 million parameters; He et al., 2015, https://arxiv.org/abs/1512.03385.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _resnet("resnet34", context, weights)


@BACKBONES.register("resnet50")
def resnet50(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ResNet-50 in six stages, 23.5 million parameters; He et al., 2015, https://arxiv.org/abs/1512.03385.

    The first set of torchvision's ImageNet weights: the one that the literature on adaptation starts from.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _resnet("resnet50", context, weights)


@BACKBONES.register("resnet101")
def resnet101(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ResNet-101 in six stages, 42.5 million parameters; He et al., 2015, https://arxiv.org/abs/1512.03385.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _resnet("resnet101", context, weights)


def _resnet(name: str, context: BackboneContext, weights: str) -> StagedBackbone:
    from torchvision.models import ResNet

    network = create_torchvision(name)
    assert isinstance(network, ResNet)
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    stages = [stem, network.layer1, network.layer2, network.layer3, network.layer4, mean_pool()]
    names = ["stem", "layer1", "layer2", "layer3", "layer4", "pool"]
    backbone = StagedBackbone(stages, names, network.fc.in_features, image_entry(context))
    return finish_torchvision(name, network, backbone, context, weights)
