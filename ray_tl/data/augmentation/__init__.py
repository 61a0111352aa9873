"""Random changes of a batch of images or texts, different for each example, that keep its class."""

from ray_tl.data.augmentation import drawn, policies, words  # noqa: F401  importing a module registers its augmentations
from ray_tl.data.augmentation.base import AUGMENTATIONS, Augmentation, as_input, dropped_activations
from ray_tl.data.augmentation.choice import augmentation_for, strong_view
from ray_tl.data.augmentation.views import AS_IT_IS, TEST_TIME_AUGMENTATIONS, ImageView, views_of

__all__ = [
    "AS_IT_IS",
    "AUGMENTATIONS",
    "TEST_TIME_AUGMENTATIONS",
    "Augmentation",
    "ImageView",
    "as_input",
    "augmentation_for",
    "dropped_activations",
    "strong_view",
    "views_of",
]
