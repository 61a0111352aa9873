"""ConvNeXt, by torchvision."""

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, BackboneContext, image_entry
from ray_tl.models.backbones.torchvision import create_torchvision, finish_torchvision
from ray_tl.models.stages import StagedBackbone


@BACKBONES.register("convnext_tiny")
def convnext_tiny(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ConvNeXt-T in six stages, 27.8 million parameters; Liu et al., 2022, https://arxiv.org/abs/2201.03545.

    Departs from the paper: no stochastic depth, so that a trial is the same on any number of workers.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _convnext("convnext_tiny", context, weights)


@BACKBONES.register("convnext_small")
def convnext_small(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ConvNeXt-S in six stages, 49.5 million parameters; see `convnext_tiny`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _convnext("convnext_small", context, weights)


@BACKBONES.register("convnext_base")
def convnext_base(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ConvNeXt-B in six stages, 87.6 million parameters; see `convnext_tiny`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _convnext("convnext_base", context, weights)


def _convnext(name: str, context: BackboneContext, weights: str) -> StagedBackbone:
    """A change of resolution belongs to the blocks behind it; the last normalisation to the pool."""
    from torchvision.models import ConvNeXt

    network = create_torchvision(name, stochastic_depth_prob=0.0)
    assert isinstance(network, ConvNeXt)
    ends = [1, 2, 4, 6, 8]
    blocks = [network.features[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    norm, flatten, output = network.classifier
    pool = nn.Sequential(network.avgpool, norm, flatten)
    names = ["stem", *(f"blocks{number}" for number in range(1, 5)), "pool"]
    assert isinstance(output, nn.Linear)
    backbone = StagedBackbone([*blocks, pool], names, output.in_features, image_entry(context))
    return finish_torchvision(name, network, backbone, context, weights)
