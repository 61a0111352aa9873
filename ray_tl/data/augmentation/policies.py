"""Augmentations of `torchvision.transforms.v2`, with randomness of their own for each example.

Torchvision draws from the global generator, once for a whole batch. Here each example is changed on its own, after the
global generator was seeded with that example's draw: examples differ, and the workers of a trial together see what one
worker sees. `tests/benchmarks/augmentation.py` says what that costs beside a step. `affine`, `flip_crop` and `color`
are computed for a whole batch at once: the better choice on a GPU, where steps are short.

Places that an image does not reach, after a rotation for example, are grey, as in the authors' code of AutoAugment.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ray_tl.data.augmentation.base import AUGMENTATIONS, DrawnAugmentation, require_within
from ray_tl.randomness import seed_torch

Change = Callable[[Tensor], Tensor]

SEEDS = 2**24  # as many as a float32 draw can tell apart
GREY = 0.5
MAGNITUDES = 31


class TorchvisionAugmentation(DrawnAugmentation):
    """A transform of torchvision; subclasses say which. Results are clipped to 0..1."""

    num_draws = 1

    def __init__(self) -> None:
        self._transforms: dict[int, Change] = {}

    def transform(self, side: int) -> Change:
        """The transform of images [C, side, side]; torchvision, which takes seconds to import, is imported here."""
        raise NotImplementedError

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        side = images.shape[-1]
        if side not in self._transforms:
            self._transforms[side] = self.transform(side)
        change = self._transforms[side]
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            changed = [_changed(image, seed, change) for image, seed in zip(images, seeds_of(draws), strict=True)]
        return torch.stack(changed).clamp(0, 1)


def seeds_of(draws: Tensor) -> list[int]:
    """Seed of each example from its draw, [N, 1] in [0, 1)."""
    return [int(draw * SEEDS) for draw in draws[:, 0].tolist()]


@AUGMENTATIONS.register("rotation", ranges={"degrees": {"uniform": [5, 45]}})
class Rotation(TorchvisionAugmentation):
    """Rotation around the centre, uniform to either side.

    Args:
        degrees: Largest angle, 0..180.
    """

    def __init__(self, *, degrees: float = 15.0) -> None:
        require_within("degrees", degrees, 0, 180)
        super().__init__()
        self._degrees = degrees

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.RandomRotation(self._degrees, v2.InterpolationMode.BILINEAR, fill=GREY)


@AUGMENTATIONS.register("flip", ranges={"horizontal": {"choice": [0.0, 0.5]}, "vertical": {"choice": [0.0, 0.5]}})
class Flip(TorchvisionAugmentation):
    """Mirrored images, where left and right, or up and down, mean nothing.

    Args:
        horizontal: Share that is mirrored left to right, 0..1.
        vertical: Share that is turned upside down, 0..1.
    """

    def __init__(self, *, horizontal: float = 0.5, vertical: float = 0.0) -> None:
        require_within("horizontal", horizontal, 0, 1)
        require_within("vertical", vertical, 0, 1)
        super().__init__()
        self._horizontal, self._vertical = horizontal, vertical

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.Compose([v2.RandomHorizontalFlip(self._horizontal), v2.RandomVerticalFlip(self._vertical)])


@AUGMENTATIONS.register("resized_crop", ranges={"scale": {"uniform": [0.3, 1.0]}})
class ResizedCrop(TorchvisionAugmentation):
    """A random crop stretched to the full size, never mirrored: for digits, letters and signs.

    Szegedy et al., "Going deeper with convolutions", 2014, https://arxiv.org/abs/1409.4842, section 6.

    Args:
        scale: Smallest share of the area, above 0, up to 1.
    """

    def __init__(self, *, scale: float = 0.6) -> None:
        require_within("scale", scale, 0.01, 1)
        super().__init__()
        self._scale = scale

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.RandomResizedCrop(side, scale=(self._scale, 1.0))


@AUGMENTATIONS.register(
    "color_jitter",
    ranges={
        "brightness": {"uniform": [0, 0.8]},
        "contrast": {"uniform": [0, 0.8]},
        "saturation": {"uniform": [0, 0.8]},
        "hue": {"uniform": [0, 0.2]},
    },
)
class ColorJitter(TorchvisionAugmentation):
    """Brightness, contrast, saturation and hue, in random order; grey images keep the first two.

    Args:
        brightness: Factors are between 1 - brightness and 1 + brightness; 0..1.
        contrast: As `brightness`.
        saturation: As `brightness`.
        hue: Largest turn of the colour circle to either side, as a share of it, 0..0.5.
    """

    def __init__(
        self, *, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.1
    ) -> None:
        require_within("brightness", brightness, 0, 1)
        require_within("contrast", contrast, 0, 1)
        require_within("saturation", saturation, 0, 1)
        require_within("hue", hue, 0, 0.5)
        super().__init__()
        self._strengths = brightness, contrast, saturation, hue

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.ColorJitter(*self._strengths)


@AUGMENTATIONS.register("gaussian_noise", ranges={"sigma": {"log_uniform": [0.01, 0.2]}})
class GaussianNoise(TorchvisionAugmentation):
    """Independent noise on every value, clipped: for domains from noisier sensors.

    Args:
        sigma: Standard deviation, above 0, up to 1, where white is 1.
    """

    def __init__(self, *, sigma: float = 0.05) -> None:
        require_within("sigma", sigma, 0.001, 1)
        super().__init__()
        self._sigma = sigma

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.GaussianNoise(sigma=self._sigma)


@AUGMENTATIONS.register("gaussian_blur", ranges={"sigma": {"uniform": [0.005, 0.03]}})
class GaussianBlur(TorchvisionAugmentation):
    """Blur of a random width, uniform from next to nothing: for domains that are out of focus.

    Args:
        sigma: Largest standard deviation as a share of the side, above 0, up to 0.1.
    """

    def __init__(self, *, sigma: float = 0.02) -> None:
        require_within("sigma", sigma, 0.001, 0.1)
        super().__init__()
        self._sigma = sigma

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        largest = max(self._sigma * side, 0.1)
        reach = min(max(1, round(3 * largest)), side - 1)  # edges are mirrored, which an image can be only once
        return v2.GaussianBlur(2 * reach + 1, (0.1, largest))


@AUGMENTATIONS.register("erasing", ranges={"probability": {"uniform": [0.25, 1.0]}, "largest": {"uniform": [0.1, 0.4]}})
class Erasing(TorchvisionAugmentation):
    """A random rectangle becomes grey.

    Zhong et al., "Random Erasing Data Augmentation", 2017, https://arxiv.org/abs/1708.04896, algorithm 1 with s_l 0.02
    and r_1 0.3, erased by one value (their "RE-M", here the middle of the range). Noise, their best, would have to be
    normalised images' own: torchvision's leaves 0..1, and clipped it is mostly black and white.

    Args:
        probability: Share of the images that lose a rectangle, 0..1.
        largest: Largest area of the rectangle, as a share of the image's; 0.02..0.9.
    """

    def __init__(self, *, probability: float = 0.5, largest: float = 0.33) -> None:
        require_within("probability", probability, 0, 1)
        require_within("largest", largest, 0.02, 0.9)
        super().__init__()
        self._probability, self._largest = probability, largest

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.RandomErasing(self._probability, (0.02, self._largest), (0.3, 3.3), value=GREY)


@AUGMENTATIONS.register("trivial_augment")
class TrivialAugment(TorchvisionAugmentation):
    """One of fourteen operations at random, at a random strength: nothing to tune.

    Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", 2021,
    https://arxiv.org/abs/2103.10158, the wide space.
    """

    def __init__(self) -> None:
        super().__init__()

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.TrivialAugmentWide(MAGNITUDES, v2.InterpolationMode.BILINEAR, fill=GREY)


@AUGMENTATIONS.register("rand_augment", ranges={"num_ops": {"int": [1, 3]}, "magnitude": {"int": [3, 15]}})
class RandAugment(TorchvisionAugmentation):
    """Several of fourteen operations at random, all at one strength.

    Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019,
    https://arxiv.org/abs/1909.13719, figure 2: N and M.

    Args:
        num_ops: Operations an image, 1..10.
        magnitude: Strength of each, 0..30.
    """

    def __init__(self, *, num_ops: int = 2, magnitude: int = 9) -> None:
        require_within("num_ops", num_ops, 1, 10)
        require_within("magnitude", magnitude, 0, MAGNITUDES - 1)
        super().__init__()
        self._num_ops, self._magnitude = num_ops, magnitude

    def transform(self, side: int) -> Change:
        from torchvision.transforms import v2

        return v2.RandAugment(self._num_ops, self._magnitude, MAGNITUDES, v2.InterpolationMode.BILINEAR, fill=GREY)


@AUGMENTATIONS.register("standard", ranges={"scale": {"uniform": [0.3, 1.0]}, "strength": {"uniform": [0, 0.8]}})
class Standard(TorchvisionAugmentation):
    """`resized_crop`, mirrored half of the time, then `color_jitter`: what photographs are usually trained with.

    Args:
        scale: As `resized_crop`.
        strength: Of brightness, contrast and saturation, 0..1; hue takes a quarter of it.
    """

    def __init__(self, *, scale: float = 0.6, strength: float = 0.4) -> None:
        super().__init__()
        require_within("strength", strength, 0, 1)
        colours = ColorJitter(brightness=strength, contrast=strength, saturation=strength, hue=strength / 4)
        self._parts = [ResizedCrop(scale=scale), Flip(), colours]

    def transform(self, side: int) -> Change:
        return _in_turn([part.transform(side) for part in self._parts])


@AUGMENTATIONS.register(
    "heavy", ranges={"scale": {"uniform": [0.3, 1.0]}, "num_ops": {"int": [1, 3]}, "magnitude": {"int": [3, 15]}}
)
class Heavy(TorchvisionAugmentation):
    """`resized_crop`, mirrored half of the time, then `rand_augment`, then `erasing` of one image in four.

    Args:
        scale: As `resized_crop`.
        num_ops: As `rand_augment`.
        magnitude: As `rand_augment`.
    """

    def __init__(self, *, scale: float = 0.4, num_ops: int = 2, magnitude: int = 9) -> None:
        super().__init__()
        operations = RandAugment(num_ops=num_ops, magnitude=magnitude)
        self._parts = [ResizedCrop(scale=scale), Flip(), operations, Erasing(probability=0.25)]

    def transform(self, side: int) -> Change:
        return _in_turn([part.transform(side) for part in self._parts])


def _changed(image: Tensor, seed: int, change: Change) -> Tensor:
    seed_torch(seed)
    return change(image)


def _in_turn(changes: list[Change]) -> Change:
    def change(image: Tensor) -> Tensor:
        for step in changes:
            image = step(image)
        return image

    return change
