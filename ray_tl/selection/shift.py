"""How much a network is expected to lose from source to target, from its confidence alone."""

from ray_tl.validation.thresholds import expected_accuracy

__all__ = ["SMALL_SHIFT", "expected_accuracy"]

SMALL_SHIFT = 0.1
