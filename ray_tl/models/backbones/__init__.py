"""Backbones by name, one file a family."""

from ray_tl.models.backbones import (
    clip,
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
from ray_tl.models.backbones.common import (
    BACKBONES,
    BackboneContext,
    feature_dim,
    knows_words,
    num_stages,
    require_words,
    stage_sizes,
)

__all__ = [
    "BACKBONES",
    "BackboneContext",
    "clip",
    "convnext",
    "efficientnet",
    "feature_dim",
    "hugging_face",
    "inception",
    "knows_words",
    "mobilenet",
    "num_stages",
    "require_words",
    "resnet",
    "small",
    "stage_sizes",
    "timm_models",
    "user",
    "vgg",
    "vit",
]
