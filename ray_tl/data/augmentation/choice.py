"""Which augmentation fits which examples."""

from ray_tl.config import Component
from ray_tl.data.augmentation.base import AUGMENTATIONS, Augmentation
from ray_tl.data.augmentation.drawn import Strong
from ray_tl.data.augmentation.words import WordDropout
from ray_tl.errors import InvalidInput

STRONG_DROPOUT = 0.3
_USUAL = {"images": ("standard", "flip_crop", "none"), "text": ("word_dropout", "none")}


def augmentation_for(component: Component, modality: str) -> Augmentation:
    """The augmentation that a configuration names, for examples of this modality.

    Raises:
        InvalidInput: If it is unknown, a parameter is wrong, or it changes examples of another modality.
    """
    built = AUGMENTATIONS.create(component.name, component.params)
    if built.modality not in ("any", modality):
        raise InvalidInput(
            f"augmentation {component.name!r} changes {built.modality}, and data.modality is {modality!r}; choose "
            f"{' or '.join(_USUAL[modality])}."
        )
    return built


def strong_view(modality: str) -> Augmentation:
    """What makes the strong view of consistency methods."""
    return Strong() if modality == "images" else WordDropout(rate=STRONG_DROPOUT)
