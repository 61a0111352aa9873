"""How far what each trial predicts on the target fits what the other trials have learned to see as near."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ray_tl.neighbours import LabelledSpace, Neighbours

LEAST_SPACES = 3  # with two, how good a trial is can't be told from how good the other's space is
SAME = 0.95
MAX_ITERATIONS, TOLERANCE, TINY = 1000, 1e-10, 1e-12


def cross_agreements(
    classes: Mapping[int, NDArray[np.int64]], spaces: Mapping[int, LabelledSpace], num_classes: int
) -> dict[int, float] | None:
    """Agreement of each trial's predictions between neighbours in the features of other trials.

    A trial bends its own features until its predictions suit them, but not those of others. Each is measured in other
    spaces, and classes lie closer together in some than in others, so the agreement of trial i in space j, 0 where it
    is below chance, is fitted by least squares as q_i s_j, over all j that i does not own. Given is q_i times the root
    mean square of s_j: 0 by chance, at most about 1. A space in which nobody agrees hardly counts. One that several
    trials share, as with a frozen backbone, counts once, and for none of them; one in which the source's own labels
    are hardly alike between neighbours, not at all.

    Args:
        classes: Predicted on the target by number of the trial, [M].
        spaces: By number of the trial, of some of them or all.
        num_classes: C.

    Returns:
        By number of the trial; `None` where fewer than `LEAST_SPACES` different spaces can be trusted.
    """
    different = _different({number: space for number, space in spaces.items() if number in classes})
    if len(different) < LEAST_SPACES:
        return None
    agreement = np.zeros((len(classes), len(different)))
    counts = np.zeros_like(agreement, dtype=bool)
    for row, (number, own) in enumerate(classes.items()):
        for column, (neighbours, owners) in enumerate(different):
            if number not in owners:
                agreement[row, column] = neighbours.agreement(own, num_classes)
                counts[row, column] = True
    return dict(zip(classes, _quality(agreement, counts).tolist(), strict=True))


def _different(spaces: Mapping[int, LabelledSpace]) -> list[tuple[Neighbours, set[int]]]:
    """Those that can be trusted, each with all that own it."""
    different: list[tuple[Neighbours, set[int]]] = []
    for number, space in spaces.items():
        if not space.can_be_trusted:
            continue
        same = (owners for neighbours, owners in different if _are_the_same(neighbours, space.neighbours))
        if owners := next(same, None):
            owners.add(number)
        else:
            different.append((space.neighbours, {number}))
    return different


def _are_the_same(first: Neighbours, second: Neighbours) -> bool:
    """But for rounding, which may turn the order of two that are equally near."""
    return np.array_equal(first.rows, second.rows) and float((first.nearest == second.nearest).mean()) >= SAME


def _quality(agreement: NDArray[np.float64], counts: NDArray[np.bool_]) -> NDArray[np.float64]:
    """q of the best fit q_i s_j to a matrix with gaps, [I], by alternating least squares; the mean of s_j^2 is 1."""
    values = np.where(counts, agreement.clip(min=0), 0)
    quality, spread = np.ones(len(values)), np.ones(values.shape[1])
    for _ in range(MAX_ITERATIONS):
        before = quality
        spread = quality @ values / np.maximum(quality**2 @ counts, TINY)
        quality = values @ spread / np.maximum(counts @ spread**2, TINY)
        if np.abs(quality - before).max() < TOLERANCE:
            break
    scaled: NDArray[np.float64] = quality * np.sqrt((spread**2).mean())
    return scaled
