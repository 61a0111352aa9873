"""What an augmentation is, and how one draws its random numbers."""

from typing import Protocol

import torch
from torch import Tensor

from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry

DROPPED = 0.2
Rows = slice | Tensor


class Augmentation(Protocol):
    """A random change of a batch.

    Attributes:
        modality: Of the examples that it can change: `images`, `text`, or `any`.
    """

    modality: str

    def augment(
        self, images: Tensor, generator: torch.Generator, rows: Rows | None = None, total: int | None = None
    ) -> Tensor:
        """Changed images, on the same device; no gradient is meant to flow.

        Random numbers are drawn for the whole batch at once, whichever part of it is here. So the workers of a trial,
        each with its rows and a generator of the same seed, together see what a single worker sees.

        Args:
            images: Float [N, C, S, S] in 0..1; or texts, as numbers of tokens [N, L].
            generator: Source of all randomness.
            rows: Which of the whole batch `images` are; all if left out.
            total: Size of the whole batch; N if left out.
        """
        ...


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


@AUGMENTATIONS.register("none")
class Unchanged:
    """Examples as they are."""

    modality = "any"

    def augment(
        self, images: Tensor, generator: torch.Generator, rows: Rows | None = None, total: int | None = None
    ) -> Tensor:
        return images


class DrawnAugmentation:
    """An augmentation as a pure function of uniform random numbers, a fixed number for each example."""

    modality = "images"
    num_draws: int

    def augment(
        self, images: Tensor, generator: torch.Generator, rows: Rows | None = None, total: int | None = None
    ) -> Tensor:
        size = len(images) if total is None else total
        draws = torch.rand(size, self.num_draws, generator=generator, device=generator.device)
        mine = draws if rows is None else draws[rows]
        assert len(mine) == len(images), (len(mine), len(images))
        return self.apply(images, mine.to(images.device, images.dtype))

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images [N, C, S, S] changed as `draws`, [N, num_draws] in [0, 1), say."""
        raise NotImplementedError


def dropped_activations(
    activations: Tensor, generator: torch.Generator, rows: Rows | None = None, total: int | None = None
) -> Tensor:
    """The strong view of cached activations: each zeroed with probability 0.2, the others scaled up; as `augment`."""
    size = len(activations) if total is None else total
    draws = torch.rand(size, *activations.shape[1:], generator=generator, device=generator.device)
    kept = (draws if rows is None else draws[rows]) >= DROPPED
    return activations * kept.to(activations.device) / (1 - DROPPED)


def as_input(rows: Tensor) -> Tensor:
    """Rows of a domain as augmentations take them: images as floats in 0..1, tokens as they are."""
    return rows.float() / 255 if rows.dtype == torch.uint8 else rows


def require_within(field: str, value: float, low: float, high: float, owner: str = "augmentation") -> None:
    """Raise `InvalidInput` unless low <= value <= high."""
    if not low <= value <= high:
        raise InvalidInput(f"{owner}.{field}={value} is out of range; choose {low}..{high}.")
