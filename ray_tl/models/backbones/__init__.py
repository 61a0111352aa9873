"""Backbones by name, one file a family."""

from ray_tl.models.backbones import (
    convnext,
    efficientnet,
    hugging_face,
    inception,
    mobilenet,
    resnet,
    small,
    user,
    vgg,
    vit,
)
from ray_tl.models.backbones.common import BACKBONES, BackboneContext, feature_dim, num_stages, stage_sizes

__all__ = [
    "BACKBONES",
    "BackboneContext",
    "convnext",
    "efficientnet",
    "feature_dim",
    "hugging_face",
    "inception",
    "mobilenet",
    "num_stages",
    "resnet",
    "small",
    "stage_sizes",
    "user",
    "vgg",
    "vit",
]
