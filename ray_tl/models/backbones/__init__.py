"""Backbones by name, one file a family."""

from ray_tl.models.backbones import (
    bert,
    convnext,
    efficientnet,
    gpt2,
    hugging_face,
    inception,
    mobilenet,
    resnet,
    small,
    user,
    vgg,
    vit,
)
from ray_tl.models.backbones.common import (
    BACKBONES,
    BackboneContext,
    build_backbone,
    dimensions,
    feature_dim,
    num_stages,
    stage_sizes,
)

__all__ = [
    "BACKBONES",
    "BackboneContext",
    "bert",
    "build_backbone",
    "convnext",
    "dimensions",
    "efficientnet",
    "feature_dim",
    "gpt2",
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
