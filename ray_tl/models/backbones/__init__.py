"""Backbones by name, one file a family."""

from ray_tl.models.backbones import efficientnet, mobilenet, resnet, small
from ray_tl.models.backbones.common import BACKBONES, BackboneContext, feature_dim, num_stages

__all__ = [
    "BACKBONES",
    "BackboneContext",
    "efficientnet",
    "feature_dim",
    "mobilenet",
    "num_stages",
    "resnet",
    "small",
]
