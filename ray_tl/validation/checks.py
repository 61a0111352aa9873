"""Refuse evidence from which no number follows."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput, NotFinite, Unavailable
from ray_tl.validation.evidence import Features

T = TypeVar("T")
Number = TypeVar("Number", bound=np.generic)

OF_THE_TARGET = "features of the target, which a trial leaves when it has ended"
OF_THE_HOLDOUT = "features of held-out source examples, which a trial leaves when it has ended"
OF_THE_TRAINING = "features of the source examples it was trained on, which a trial leaves when it has ended"


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
        raise NotFinite(
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


def needed(validator: str, what: str, given: T | None) -> T:
    """What is given, for a validator that can't do without.

    Args:
        validator: Its registered name.
        what: Is needed, and where it comes from: "features of the target, which a trial leaves when it has ended".

    Raises:
        Unavailable: If it is `None`.
    """
    if given is None:
        raise Unavailable(f"validator {validator!r} needs {what}; leave it out.")
    return given


def usable_features(features: Features, num_kept: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows and values of at most so many; always the same ones, and at random, because some data lie by class.

    Raises:
        InvalidInput: If there are none, or rows and values do not match.
        TrialFailed: If a feature is not finite.
    """
    rows, values = features.rows, features.values
    if values.ndim != 2 or 0 in values.shape or rows.shape != (len(values),):
        raise InvalidInput(f"features of shape {values.shape} do not match rows {rows.shape}; give [R, D] and [R].")
    kept = some_positions(len(rows), num_kept)
    return rows[kept], finite("features", values[kept])


def at_rows(table: NDArray[Number], rows: NDArray[np.int64]) -> NDArray[Number]:
    """These rows of a table of all examples of a domain.

    Raises:
        InvalidInput: If a row is none of the table's.
    """
    if rows.min() < 0 or rows.max() >= len(table):
        raise InvalidInput(f"rows range over {rows.min()}..{rows.max()}; give rows of the domain, 0..{len(table) - 1}.")
    return table[rows]


def some_positions(num_rows: int, num_kept: int) -> NDArray[np.int64]:
    """At most so many of 0..num_rows - 1 in ascending order; the same ones for equal arguments."""
    return np.sort(np.random.default_rng(0).permutation(num_rows)[:num_kept])


def finite(what: str, values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The same in float64.

    Raises:
        NotFinite: If one of them is not.
    """
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise NotFinite(f"{what} are not finite: training diverged; lower the learning rate or the loss weights.")
    return wide
