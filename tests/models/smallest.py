"""Every registered backbone at its smallest, without weights: what conformance tests build."""

from ray_tl.config import Component
from ray_tl.models.backbones import BACKBONES
from ray_tl.registry import Value

SMALLEST: dict[str, dict[str, Value]] = {}
"""Parameters beside `weights: none`, of the backbones that need some to be small."""


def smallest(name: str) -> Component:
    untrained = {"weights": "none"} if "weights" in BACKBONES.parameters(name) else {}
    return Component(name=name, params={**untrained, **SMALLEST.get(name, {})})
