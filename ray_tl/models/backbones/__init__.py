"""Backbones by name, one file a family."""

from ray_tl.models.backbones import bert, efficientnet, gpt2, mobilenet, resnet, small
from ray_tl.models.backbones.common import (
    BACKBONES,
    BackboneContext,
    build_backbone,
    dimensions,
    feature_dim,
    num_stages,
)

__all__ = [
    "BACKBONES",
    "BackboneContext",
    "bert",
    "build_backbone",
    "dimensions",
    "efficientnet",
    "feature_dim",
    "gpt2",
    "mobilenet",
    "num_stages",
    "resnet",
    "small",
]
