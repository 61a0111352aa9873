"""Backbones by name, one file a family."""

from ray_tl.models.backbones import (
    bert,
    clip,
    convnext,
    efficientnet,
    gpt2,
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
    build_backbone,
    dimensions,
    knows_words,
    require_words,
)

__all__ = [
    "BACKBONES",
    "BackboneContext",
    "bert",
    "build_backbone",
    "clip",
    "convnext",
    "dimensions",
    "efficientnet",
    "gpt2",
    "hugging_face",
    "inception",
    "knows_words",
    "mobilenet",
    "require_words",
    "resnet",
    "small",
    "timm_models",
    "user",
    "vgg",
    "vit",
]
