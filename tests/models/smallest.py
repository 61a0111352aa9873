"""Every registered backbone at its smallest, without weights: what conformance tests build."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import VisionTransformer

from ray_tl.config import Component
from ray_tl.models.backbones import BACKBONES, BackboneContext, dimensions
from ray_tl.models.backbones.common import IMAGE_SIZE
from ray_tl.models.backbones.torchvision import finish_torchvision
from ray_tl.models.backbones.vit import stage_vit
from ray_tl.models.stages import StagedBackbone
from ray_tl.registry import Value

TEXT = ("bert", "gpt2", "minilm", "roberta", "tiny_bert")
"""Transformers that read texts."""

WORD_VECTORS = "word_vectors"
"""The other backbone that reads texts; all that are left read images."""

VECTORS_FILE = str(Path(__file__).with_name("tiny_vectors.txt"))
"""Four numbers for each word of `tests.training.tiny_text`."""

TINY_TRANSFORMER: dict[str, Value] = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "patch_size": 16}
SMALLEST: dict[str, dict[str, Value]] = {
    "clip": TINY_TRANSFORMER,
    "dinov2": TINY_TRANSFORMER,
    "hf_vit": TINY_TRANSFORMER,
    "timm": {"model": "resnet10t"},
    **{name: {"num_layers": 1} for name in TEXT},
}
"""Parameters beside `weights: none`, of the backbones that need some to be small."""

FAMILIES = [
    "convnext_tiny",
    "clip",
    "dinov2",
    "efficientnet_b0",
    "efficientnet_lite0",
    "hf_vit",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "small_cnn",
    "timm",
    "tiny_cnn",
    "vgg11_bn",
    "vit_b_32",
]
"""One backbone of each family, its smallest: only these are run."""

SIDES = {"inception_v3": 75}
"""Of the smallest images, where 32 pixels are too few."""


def image_backbones() -> list[str]:
    return [name for name in BACKBONES.names() if name not in (*TEXT, WORD_VECTORS)]


def smallest(name: str) -> Component:
    untrained = {"weights": "none"} if "weights" in BACKBONES.parameters(name) else {}
    return Component(name=name, params={**untrained, **SMALLEST.get(name, {})})


def context(name: str, channels: int = 3) -> BackboneContext:
    return BackboneContext(channels, image_size=SIDES.get(name, 32))


def build(name: str, channels: int = 3) -> StagedBackbone:
    """With the same random weights at every call; torchvision's ViT, of which there is no small one, is made small."""
    torch.manual_seed(0)
    if name == "vit_b_32":
        network = VisionTransformer(32, 32, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
        backbone = stage_vit(network, context(name, channels))
        return finish_torchvision(name, network, backbone, context(name, channels), "none")
    return BACKBONES.create(name, smallest(name).params, context(name, channels))


def images(name: str, channels: int = 3, rows: int = 2) -> Tensor:
    """Of a domain, in 0..1, the smallest that the backbone takes."""
    side = SIDES.get(name, 32)
    return torch.rand(rows, channels, side, side, generator=torch.Generator().manual_seed(1))


def stage_sizes(backbone: Component, channels: int, image_size: int = IMAGE_SIZE) -> tuple[int, ...]:
    """Parameters of each stage of a backbone of images."""
    return dimensions(backbone, BackboneContext(channels, False, image_size))[0]


def num_stages(backbone: Component, channels: int, image_size: int = IMAGE_SIZE) -> int:
    return len(stage_sizes(backbone, channels, image_size))


def feature_dim(backbone: Component, channels: int, image_size: int = IMAGE_SIZE) -> int:
    return dimensions(backbone, BackboneContext(channels, False, image_size))[1]
