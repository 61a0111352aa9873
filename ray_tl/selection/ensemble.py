"""How far each trial says what all of them say together."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

TIE = 1e-6  # weight of mean probabilities beside votes: less than any vote


def agreements(predictions: Mapping[int, NDArray[np.floating]]) -> dict[int, float]:
    """Share of the target to which each trial gives the class that most of the trials give, in [0, 1].

    Ensemble-based validation (EnsV) compares with the mean of all softmax outputs. Departure: each trial has one vote
    for each example, so that being sure buys nothing; mean probabilities decide where votes are equal.

    Args:
        predictions: Softmax outputs on the target by number of the trial, [M, C] each.
    """
    numbers, outputs = list(predictions), np.stack(list(predictions.values())).astype(np.float64)
    classes = outputs.argmax(axis=2)
    votes = np.eye(outputs.shape[2])[classes].mean(axis=0)
    ensemble = (votes + TIE * outputs.mean(axis=0)).argmax(axis=1)
    return {number: float((own == ensemble).mean()) for number, own in zip(numbers, classes, strict=True)}
