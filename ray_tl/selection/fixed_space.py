"""A judge of target predictions that no trial can train: neighbours in a space that is fixed before the search."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.neighbours import LabelledSpace, nearest_across, nearest_neighbours

Both = tuple[NDArray[np.floating], NDArray[np.floating]]
"""Features of source examples, [S, D], and of target examples, [R, D]."""


@dataclass(frozen=True)
class FixedSpace(LabelledSpace):
    """A space that is fixed before the search.

    Attributes:
        space: What it is, in words.
    """

    space: str = ""

    def in_words(self) -> str:
        """What predictions on the target are held against, for users."""
        agreement = f"agreement {self.trust:.2f}; 1 at most, 0 by chance"
        if self.can_be_trusted:
            return f"nearest neighbours in the {self.space}, where source examples share their label ({agreement})"
        return (
            f"confidence and diversity alone: neighbours in the {self.space} hardly share their label in the source "
            f"({agreement})"
        )


def most_trusted_space(
    features: Mapping[str, Both], labels: NDArray[np.int64], rows: NDArray[np.int64], num_classes: int
) -> FixedSpace:
    """The space in which source neighbours share their label most often; of equal ones the first.

    Args:
        features: By what they are of, in words, at least one.
        labels: Of the source examples, [S], S >= 2.
        rows: Which rows of the target these examples are, [R], R >= 2.
        num_classes: C.
    """
    trusts = {name: _trust(source, labels, num_classes) for name, (source, _) in features.items()}
    best = max(trusts, key=trusts.__getitem__)
    source, target = features[best]
    votes = np.eye(num_classes, dtype=np.float32)[labels[nearest_across(target, source)]].mean(axis=1)
    return FixedSpace(nearest_neighbours(target, rows), trusts[best], votes, space=best)


def _trust(source: NDArray[np.floating], labels: NDArray[np.int64], num_classes: int) -> float:
    return nearest_neighbours(source, np.arange(len(source))).agreement(labels, num_classes)
