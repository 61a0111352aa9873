"""Augmentations as pure functions of uniform draws, computed for the whole batch at once."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.data.augmentation.base import AUGMENTATIONS, DrawnAugmentation, require_within

RESOLUTION_LEVELS = 4
_LUMA = (0.299, 0.587, 0.114)

_AFFINE_RANGES: Mapping[str, Mapping[str, object]] = {
    "degrees": {"uniform": [0, 30]},
    "translate": {"uniform": [0, 0.2]},
    "scale": {"uniform": [0, 0.3]},
    "shear": {"uniform": [0, 20]},
}


@AUGMENTATIONS.register("affine", ranges=_AFFINE_RANGES)
class Affine(DrawnAugmentation):
    """Rotation, shift, zoom and shear, each uniform in its range; around the image lies its background.

    The background is the median of the outermost pixels. Their continuation would draw streaks from what touches an
    edge, which no example of a domain with a margin has.

    Args:
        degrees: Largest rotation to either side, 0..180.
        translate: Largest shift, as a share of the side, 0..1.
        scale: Zoom is between 1 - scale and 1 + scale; 0..0.9.
        shear: Largest shear to either side, in degrees, 0..80.
    """

    num_draws = 5

    def __init__(
        self, *, degrees: float = 15.0, translate: float = 0.1, scale: float = 0.15, shear: float = 10.0
    ) -> None:
        require_within("degrees", degrees, 0, 180)
        require_within("translate", translate, 0, 1)
        require_within("scale", scale, 0, 0.9)
        require_within("shear", shear, 0, 80)
        self._limits = torch.tensor([math.radians(degrees), translate, translate, scale, math.radians(shear)])

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        angle, right, down, zoom, shear = ((2 * draws - 1) * self._limits.to(draws)).unbind(1)
        cos, sin, slope, shrink = angle.cos(), angle.sin(), shear.tan(), 1 / (1 + zoom)
        across = torch.stack([cos, cos * slope - sin, 2 * right], dim=1)
        along = torch.stack([sin, sin * slope + cos, 2 * down], dim=1)
        background = _background(images)
        to_source = torch.stack([across, along], dim=1) * shrink[:, None, None]
        return background + _sampled(images - background, to_source, beyond="zeros")


@AUGMENTATIONS.register("affine_resolution", ranges={**_AFFINE_RANGES, "min_size": {"uniform": [0.2, 0.6]}})
class AffineResolution(DrawnAugmentation):
    """`affine`, then down to one of four lower resolutions and back up: for domains from coarser scanners.

    Args:
        degrees: As `affine`.
        translate: As `affine`.
        scale: As `affine`.
        shear: As `affine`.
        min_size: Lowest resolution, as a share of the side, above 0, up to 1; the highest is the side itself.
    """

    num_draws = Affine.num_draws + 1

    def __init__(
        self,
        *,
        degrees: float = 15.0,
        translate: float = 0.1,
        scale: float = 0.15,
        shear: float = 10.0,
        min_size: float = 0.25,
    ) -> None:
        require_within("min_size", min_size, 0.01, 1)
        self._affine = Affine(degrees=degrees, translate=translate, scale=scale, shear=shear)
        self._shares = torch.linspace(min_size, 1, RESOLUTION_LEVELS).tolist()

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        moved = self._affine.apply(images, draws[:, :-1])
        levels = (draws[:, -1] * len(self._shares)).long()
        for level, share in enumerate(self._shares[:-1]):
            chosen = levels == level
            if chosen.any():
                moved[chosen] = _coarsened(moved[chosen], max(1, round(share * images.shape[-1])))
        return moved


@AUGMENTATIONS.register("flip_crop", ranges={"scale": {"uniform": [0.3, 1.0]}})
class FlipCrop(DrawnAugmentation):
    """A random crop of at least `scale` of the area, stretched to the full size, mirrored half of the time.

    Szegedy et al., "Going deeper with convolutions", 2014, https://arxiv.org/abs/1409.4842, section 6: area uniform,
    aspect ratio log-uniform in 3/4..4/3; here a crop longer than the image is cut to it.

    Args:
        scale: Smallest share of the area, above 0, up to 1.
    """

    num_draws = 5

    def __init__(self, *, scale: float = 0.6) -> None:
        require_within("scale", scale, 0.01, 1)
        self._scale = scale

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        area = self._scale + (1 - self._scale) * draws[:, 0]
        stretch = ((2 * draws[:, 1] - 1) * math.log(4 / 3) / 2).exp()
        width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
        mirror = torch.where(draws[:, 2] < 0.5, -1.0, 1.0).to(draws)
        zero = torch.zeros_like(width)
        across = torch.stack([width * mirror, zero, (2 * draws[:, 3] - 1) * (1 - width)], dim=1)
        along = torch.stack([zero, height, (2 * draws[:, 4] - 1) * (1 - height)], dim=1)
        return _sampled(images, torch.stack([across, along], dim=1))


@AUGMENTATIONS.register("color", ranges={"strength": {"uniform": [0, 0.8]}, "scale": {"uniform": [0.3, 1.0]}})
class Color(DrawnAugmentation):
    """`flip_crop`, then brightness, contrast and saturation, each times a factor around 1.

    Args:
        strength: Factors are between 1 - strength and 1 + strength; 0..1.
        scale: As `flip_crop`.
    """

    num_draws = FlipCrop.num_draws + 3

    def __init__(self, *, strength: float = 0.4, scale: float = 0.6) -> None:
        require_within("strength", strength, 0, 1)
        self._strength = strength
        self._crop = FlipCrop(scale=scale)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        factors = 1 + self._strength * (2 * draws[:, -3:] - 1)
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
        bright = (self._crop.apply(images, draws[:, :-3]) * brightness).clamp(0, 1)
        middle = _grey(bright).mean(dim=(1, 2, 3), keepdim=True)
        contrasted = (middle + (bright - middle) * contrast).clamp(0, 1)
        grey = _grey(contrasted)
        return (grey + (contrasted - grey) * saturation).clamp(0, 1)


@AUGMENTATIONS.register("strong", ranges={"hole": {"uniform": [0.2, 0.6]}})
class Strong(DrawnAugmentation):
    """A wide `affine`, then brightness and contrast, then a grey square: the strong view of consistency methods.

    The square is the Cutout of DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552, kept inside the image.

    Args:
        hole: Side of the square as a share of the image's, 0..0.9.
    """

    num_draws = Affine.num_draws + 4

    def __init__(self, *, hole: float = 0.4) -> None:
        require_within("hole", hole, 0, 0.9)
        self._hole = hole
        self._affine = Affine(degrees=30.0, translate=0.15, scale=0.3, shear=20.0)

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        factors = 0.5 + draws[:, -4:-2]
        brightness, contrast = factors[:, :, None, None, None].unbind(1)
        bright = (self._affine.apply(images, draws[:, :-4]) * brightness).clamp(0, 1)
        middle = bright.mean(dim=(1, 2, 3), keepdim=True)
        return self._with_hole((middle + (bright - middle) * contrast).clamp(0, 1), draws[:, -2:])

    def _with_hole(self, images: Tensor, draws: Tensor) -> Tensor:
        side = images.shape[-1]
        steps = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side
        first = draws * (1 - self._hole)
        inside = (steps >= first[:, :, None]) & (steps < first[:, :, None] + self._hole)  # [N, 2, S]
        hole = inside[:, 0, None, :, None] & inside[:, 1, None, None, :]
        return torch.where(hole, 0.5, images)


def _sampled(images: Tensor, to_source: Tensor, beyond: str = "border") -> Tensor:
    """Images resampled; `to_source`, [N, 2, 3], maps places in the result, in -1..1, to places in `images`."""
    side = images.shape[-1]
    steps = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) * (2 / side) - 1
    right, down = steps[None, None, :], steps[None, :, None]
    across, along, shift = to_source[:, :, :, None, None].unbind(2)
    grid = torch.stack([across[:, k] * right + along[:, k] * down + shift[:, k] for k in (0, 1)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=beyond, align_corners=False)


def _background(images: Tensor) -> Tensor:
    """Median of the outermost pixels of each image and channel, [N, C, 1, 1]."""
    rows, columns = images[:, :, [0, -1], :], images[:, :, 1:-1, [0, -1]]
    edge = torch.cat([rows.flatten(2), columns.flatten(2)], dim=2)
    return edge.median(dim=2).values[:, :, None, None]


def _coarsened(images: Tensor, side: int) -> Tensor:
    small = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=images.shape[-2:], mode="bilinear")


def _grey(images: Tensor) -> Tensor:
    """Brightness as the eye sees it, [N, 1, S, S]; a single channel is its own."""
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
