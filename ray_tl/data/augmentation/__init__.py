"""Random changes of a batch of images, different for each example, that keep its class."""

from ray_tl.data.augmentation import drawn, policies  # noqa: F401  importing a module registers its augmentations
from ray_tl.data.augmentation.base import AUGMENTATIONS, Augmentation, dropped_activations

__all__ = ["AUGMENTATIONS", "Augmentation", "dropped_activations"]
