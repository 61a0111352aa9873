"""MobileNets, by torchvision."""

from collections.abc import Sequence

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, BackboneContext, image_entry, mean_pool
from ray_tl.models.backbones.torchvision import create_torchvision, finish_torchvision
from ray_tl.models.stages import StagedBackbone


@BACKBONES.register("mobilenet_v2")
def mobilenet_v2(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """MobileNetV2 in eight stages, 2.2 million parameters; Sandler et al., 2018, https://arxiv.org/abs/1801.04381.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _mobilenet("mobilenet_v2", [1, 2, 4, 7, 11, 14, 18], 0, context, weights)


@BACKBONES.register("mobilenet_v3_small")
def mobilenet_v3_small(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """MobileNetV3-Small in seven stages, 1.5 million parameters; Howard et al., https://arxiv.org/abs/1905.02244.

    The features are those before ImageNet's output layer, after the last hidden layer, without its dropout.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _mobilenet("mobilenet_v3_small", [1, 2, 4, 7, 9, 12], 2, context, weights)


@BACKBONES.register("mobilenet_v3_large")
def mobilenet_v3_large(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """MobileNetV3-Large in eight stages, 4.2 million parameters; Howard et al., https://arxiv.org/abs/1905.02244.

    The features are those of `mobilenet_v3_small`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _mobilenet("mobilenet_v3_large", [1, 2, 4, 7, 11, 13, 16], 2, context, weights)


def _mobilenet(
    name: str, ends: Sequence[int], num_hidden: int, context: BackboneContext, weights: str
) -> StagedBackbone:
    """Stages end where the resolution or the width changes; the first layers behind the pool belong to the last."""
    network = create_torchvision(name)
    features, classifier = network.get_submodule("features"), network.get_submodule("classifier")
    assert isinstance(features, nn.Sequential)
    assert isinstance(classifier, nn.Sequential)
    blocks = [features[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    pool = nn.Sequential(features[ends[-1]], mean_pool(), *list(classifier)[:num_hidden])
    names = ["stem", *(f"blocks{number}" for number in range(1, len(ends))), "pool"]
    output = classifier[-1]
    assert isinstance(output, nn.Linear)
    backbone = StagedBackbone([*blocks, pool], names, output.in_features, image_entry(context))
    return finish_torchvision(name, network, backbone, context, weights)
