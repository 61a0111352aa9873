"""Every registered backbone at its smallest, without weights: what conformance tests build."""

from ray_tl.config import Component
from ray_tl.models.backbones import BACKBONES
from ray_tl.registry import Value

TEXT = ("bert", "gpt2", "minilm", "roberta", "tiny_bert")
"""Backbones that read texts; all others read images."""
SMALLEST: dict[str, dict[str, Value]] = {name: {"num_layers": 1} for name in TEXT}
"""Parameters beside `weights: none`, of the backbones that need some to be small."""


def image_backbones() -> list[str]:
    return [name for name in BACKBONES.names() if name not in TEXT]


def smallest(name: str) -> Component:
    untrained = {"weights": "none"} if "weights" in BACKBONES.parameters(name) else {}
    return Component(name=name, params={**untrained, **SMALLEST.get(name, {})})
