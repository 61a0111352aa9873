"""Backbones by name, one file a family."""

from ray_tl.models.backbones import (
    convnext,
    efficientnet,
    hugging_face,
    inception,
    mobilenet,
    resnet,
    small,
    timm_models,
    user,
    vgg,
    vit,
)
from ray_tl.models.backbones.common import BACKBONES, BackboneContext, feature_dim, num_stages

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
    "timm_models",
    "user",
    "vgg",
    "vit",
]
