"""Random changes of texts."""

import torch
from torch import Tensor

from ray_tl.data.augmentation.base import AUGMENTATIONS, Rows, require_within
from ray_tl.tokens import mark_missing


@AUGMENTATIONS.register("word_dropout", ranges={"rate": {"uniform": [0, 0.3]}})
class WordDropout:
    """Each token of a text, special ones excepted, missing with probability `rate`: the mask stands in its place.

    Bowman et al., "Generating Sentences from a Continuous Space", 2016, https://arxiv.org/abs/1511.06349, sec. 3.1,
    where the token for unknown words stands there; so it does here if the vocabulary has no mask.

    Args:
        rate: 0..0.9.
    """

    modality = "text"

    def __init__(self, *, rate: float = 0.1) -> None:
        require_within("rate", rate, 0, 0.9)
        self._rate = rate

    def augment(
        self, images: Tensor, generator: torch.Generator, rows: Rows | None = None, total: int | None = None
    ) -> Tensor:
        size = len(images) if total is None else total
        draws = torch.rand(size, images.shape[1], generator=generator, device=generator.device)
        mine = draws if rows is None else draws[rows]
        return mark_missing(images, mine.to(images.device) < self._rate)
