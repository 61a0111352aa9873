"""Random changes of a batch of images, different for each example, that keep its class."""

from ray_tl.data.augmentation import drawn, policies  # noqa: F401  importing a module registers its augmentations
from ray_tl.data.augmentation.base import AUGMENTATIONS, Augmentation, dropped_activations
from ray_tl.data.augmentation.views import AS_IT_IS, TEST_TIME_AUGMENTATIONS, ImageView, views_of

__all__ = [
    "AS_IT_IS",
    "AUGMENTATIONS",
    "TEST_TIME_AUGMENTATIONS",
    "Augmentation",
    "ImageView",
    "dropped_activations",
    "views_of",
]
