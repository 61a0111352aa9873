"""Fixed views of an image over which predictions are averaged: the same in validation and where the model serves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.config import Component
from ray_tl.data.augmentation.base import require_within
from ray_tl.registry import Registry

FIELD = "test_time_augmentation"
MAX_CROPS = 5
_CENTRE, *_CORNERS = ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))


@dataclass(frozen=True)
class ImageView:
    """One way to look at images.

    Attributes:
        name: Says everything about `change`: what it gives may be kept under this name.
        change: Images [N, C, S, S], uint8 or float in 0..1, to images of that shape.
    """

    name: str
    change: Callable[[Tensor], Tensor]


def unchanged(images: Tensor) -> Tensor:
    """The images."""
    return images


AS_IT_IS = ImageView("as it is", unchanged)
Views = tuple[ImageView, ...]

TEST_TIME_AUGMENTATIONS: Registry[Views] = Registry("test-time augmentation")


def views_of(averaged: Component) -> Views:
    """The views that a configuration's `test_time_augmentation` names, the image as it is first."""
    return TEST_TIME_AUGMENTATIONS.create(averaged.name, averaged.params)


@TEST_TIME_AUGMENTATIONS.register("none")
def none() -> Views:
    """The image as it is, once."""
    return (AS_IT_IS,)


@TEST_TIME_AUGMENTATIONS.register("flips")
def flips() -> Views:
    """The image and its mirror image: twice the cost of a prediction."""
    return _with_mirrored((AS_IT_IS,))


_CROP_RANGES: Mapping[str, Mapping[str, object]] = {
    "num_crops": {"int": [1, MAX_CROPS]},
    "scale": {"uniform": [0.7, 0.95]},
}


@TEST_TIME_AUGMENTATIONS.register("crops", ranges=_CROP_RANGES)
def crops(*, num_crops: int = 5, scale: float = 0.85) -> Views:
    """The image, its centre, and its corners one after the other: 1 + `num_crops` times the cost of a prediction.

    Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012, section 4.1, averages
    the softmax of five crops and their mirror images. Departure: crops are stretched to the full size, and the whole
    image is a view, too.

    Args:
        num_crops: 1..5.
        scale: Side of each crop as a share of the image's, 0.1..1.
    """
    require_within("num_crops", num_crops, 1, MAX_CROPS, FIELD)
    require_within("scale", scale, 0.1, 1, FIELD)
    places = (_CENTRE, *_CORNERS)[:num_crops]
    return AS_IT_IS, *(ImageView(f"{scale} at {place}", partial(_crop, scale=scale, place=place)) for place in places)


@TEST_TIME_AUGMENTATIONS.register("flipped_crops", ranges=_CROP_RANGES)
def flipped_crops(*, num_crops: int = 5, scale: float = 0.85) -> Views:
    """`crops`, and the mirror image of each: 2 + 2 `num_crops` times the cost of a prediction.

    Args:
        num_crops: As `crops`.
        scale: As `crops`.
    """
    return _with_mirrored(crops(num_crops=num_crops, scale=scale))


def _with_mirrored(views: Views) -> Views:
    mirrored = (ImageView(f"{view.name}, mirrored", partial(_mirrored, change=view.change)) for view in views)
    return *views, *mirrored


def _mirrored(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return change(images).flip(-1)


def _crop(images: Tensor, scale: float, place: tuple[float, float]) -> Tensor:
    side = images.shape[-1]
    kept = max(1, round(scale * side))
    top, left = (round(share * (side - kept)) for share in place)
    floats = images.float() / 255 if images.dtype == torch.uint8 else images
    cropped = floats[..., top : top + kept, left : left + kept]
    return F.interpolate(cropped, size=(side, side), mode="bilinear", antialias=True)
