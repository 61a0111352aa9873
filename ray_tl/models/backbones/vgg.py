"""VGG with batch normalisation, by torchvision."""

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, BackboneContext, image_entry, mean_pool
from ray_tl.models.backbones.torchvision import finish_torchvision
from ray_tl.models.stages import StagedBackbone

FEATURE_DIM = 512


@BACKBONES.register("vgg11_bn")
def vgg11_bn(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """VGG-11 in six stages, 9.2 million parameters; Simonyan and Zisserman, 2014, https://arxiv.org/abs/1409.1556.

    The features are the means of the last feature map. The two hidden layers of 4,096, which hold 14 parameters in 15
    and fit one size of images, are left out.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _vgg("vgg11_bn", "A", context, weights)


@BACKBONES.register("vgg16_bn")
def vgg16_bn(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """VGG-16 in six stages, 14.7 million parameters; Simonyan and Zisserman, 2014, https://arxiv.org/abs/1409.1556.

    The features are those of `vgg11_bn`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _vgg("vgg16_bn", "D", context, weights)


def _vgg(name: str, layout: str, context: BackboneContext, weights: str) -> StagedBackbone:
    """From the convolutions alone: torchvision's whole network would need half a gigabyte for what is left out."""
    from torchvision.models import vgg

    layers = vgg.make_layers(vgg.cfgs[layout], batch_norm=True)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    ends = [place for place, layer in enumerate(layers, 1) if isinstance(layer, nn.MaxPool2d)]
    blocks = [layers[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    names = [*(f"block{number}" for number in range(1, len(ends) + 1)), "pool"]
    backbone = StagedBackbone([*blocks, mean_pool()], names, FEATURE_DIM, image_entry(context))
    return finish_torchvision(name, nn.ModuleDict({"features": layers}), backbone, context, weights)
