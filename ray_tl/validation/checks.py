"""Refuse evidence from which no number follows."""

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput, TrialFailed


def usable(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """The same softmax outputs in float64.

    Raises:
        InvalidInput: If they are not a table [N, C] with at least one row and one class.
        TrialFailed: If one of them is not finite.
    """
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise InvalidInput(
            f"probabilities of shape {probabilities.shape} hold no prediction to judge; give [N, C] with N, C >= 1."
        )
    wrong = np.count_nonzero(~np.isfinite(probabilities).all(axis=1))
    if wrong:
        raise TrialFailed(
            f"{wrong} of {len(probabilities)} predictions are not finite: training diverged; "
            "lower the learning rate or the loss weights."
        )
    return probabilities.astype(np.float64)


def usable_with_labels(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """The same, with one true class for each row.

    Raises:
        InvalidInput: As `usable`, or if labels and rows do not match, or a label is not a class.
        TrialFailed: As `usable`.
    """
    wide = usable(probabilities)
    if labels.shape != (len(wide),):
        raise InvalidInput(f"labels of shape {labels.shape} do not match {len(wide)} predictions; give one for each.")
    num_classes = wide.shape[1]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InvalidInput(
            f"labels range over {labels.min()}..{labels.max()}, but the predictions have {num_classes} classes; "
            f"give labels in 0..{num_classes - 1}."
        )
    return wide, labels
