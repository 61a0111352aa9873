"""Vision transformers, by torchvision."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones.common import BACKBONES, BackboneContext, image_entry
from ray_tl.models.backbones.torchvision import create_torchvision, finish_torchvision
from ray_tl.models.stages import ImageEntry, StagedBackbone

if TYPE_CHECKING:
    from torchvision.models import VisionTransformer


@BACKBONES.register("vit_b_16")
def vit_b_16(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ViT-B/16 in 14 stages, 85.8 million parameters; Dosovitskiy et al., 2020, https://arxiv.org/abs/2010.11929.

    The features are those of the class token. Position embeddings are interpolated where the images are not of 224
    pixels. No dropout.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _vit("vit_b_16", 16, context, weights)


@BACKBONES.register("vit_b_32")
def vit_b_32(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """ViT-B/32 in 14 stages, 87.5 million parameters; see `vit_b_16`.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    return _vit("vit_b_32", 32, context, weights)


def require_whole_patches(name: str, image_size: int, patch_size: int) -> None:
    """Raise `InvalidInput` if images can't be cut into patches without a remainder."""
    if image_size % patch_size:
        lower, upper = (patch_size * (image_size // patch_size + step) for step in (0, 1))
        choices = f"{lower} or {upper}" if lower else str(upper)
        raise InvalidInput(
            f"data.image_size={image_size} does not fit {name!r}, whose patches are of {patch_size} pixels; "
            f"choose {choices}."
        )


def stage_vit(network: "VisionTransformer", context: BackboneContext) -> StagedBackbone:
    """Torchvision's transformer without its output layer, for images of the size that it was made for."""
    encoder = network.encoder
    tokens = Tokens(network.conv_proj, network.class_token, encoder.pos_embedding)
    names = ["patches", *(f"block{number}" for number in range(1, len(encoder.layers) + 1)), "pool"]
    stages = [tokens, *encoder.layers, nn.Sequential(encoder.ln, ClassToken())]
    entry = ImageEntry(image_entry(context).normalisation, context.image_size)
    return StagedBackbone(stages, names, network.hidden_dim, entry)


def _vit(name: str, patch_size: int, context: BackboneContext, weights: str) -> StagedBackbone:
    from torchvision.models import VisionTransformer
    from torchvision.models.vision_transformer import interpolate_embeddings

    require_whole_patches(name, context.image_size, patch_size)
    network = create_torchvision(name, image_size=context.image_size)
    assert isinstance(network, VisionTransformer)
    adapt = partial(interpolate_embeddings, context.image_size, patch_size)
    return finish_torchvision(name, network, stage_vit(network, context), context, weights, adapt)


class ClassToken(nn.Module):
    """The first of the tokens, [N, T, D] to [N, D]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class Tokens(nn.Module):
    """Images [N, C, H, W] to the class token and a token for each patch, with their positions, [N, T, D].

    Args:
        patches: A convolution, of which a step is a patch.
        class_token: [1, 1, D].
        positions: [1, T, D].
    """

    def __init__(self, patches: nn.Module, class_token: nn.Parameter, positions: nn.Parameter) -> None:
        super().__init__()
        self.patches = patches
        self.class_token = class_token
        self.positions = positions

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1) + self.positions
