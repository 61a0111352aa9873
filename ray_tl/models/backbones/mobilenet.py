"""MobileNets, by torchvision, which is imported inside the functions: it takes seconds."""

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, IMAGENET, BackboneContext, mean_pool
from ray_tl.models.backbones.torchvision import Weights, prepare_torchvision
from ray_tl.models.stages import ImageEntry, StagedBackbone


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
    prepare_torchvision("mobilenet_v3_small", network, network.features[0], url, context, weights)
    blocks = [nn.Sequential(*network.features[a:b]) for a, b in [(0, 1), (1, 2), (2, 4), (4, 7), (7, 9), (9, 12)]]
    pool = nn.Sequential(network.features[12], mean_pool(), *network.classifier[:2])
    names = ["stem", *(f"blocks{number}" for number in range(1, 6)), "pool"]
    return StagedBackbone([*blocks, pool], names, network.classifier[0].out_features, ImageEntry(IMAGENET))
