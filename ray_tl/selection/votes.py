"""How often each trial predicts what the ensemble of the others does, if others had happened to be in the pool."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_CLASSES = 16  # of an example that are looked at: one that is behind so many others in every family hardly wins

Array = NDArray[np.floating]


def draws_of_trials(families: Sequence[str], num: int, random: np.random.Generator) -> NDArray[np.int64]:
    """How often each trial is drawn with replacement from its family, [num, I]; as many of a family as there are.

    Families stay as they are: they are few, and a resample that lacks one says more of that than of noise.

    Args:
        families: Of the trials, [I].
        num: Resamples.
        random: Draws.
    """
    drawn = np.zeros((num, len(families)), dtype=np.int64)
    for places in _places(families):
        drawn[:, places] = random.multinomial(len(places), np.full(len(places), 1 / len(places)), size=num)
    return drawn


def agreement_with_drawn(
    probabilities: Mapping[int, Array], families: Mapping[int, str], weights: Array, draws: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Share of examples on which each trial predicts what the drawn ones do together, itself left out, [B, I].

    They predict the class of the largest softmax on average over families, and in each of them over its drawn trials.
    Where a family has drawn none but the trial itself, all others of it count.

    Args:
        probabilities: Softmax by number of the trial, [R, C].
        families: By number of the trial.
        weights: Of the examples, [B, R]; each row sums to 1.
        draws: How often each trial is drawn, [B, I]; see `draws_of_trials`.
    """
    trials = list(probabilities.values())
    places = _places([families[number] for number in probabilities])
    likeliest = _likeliest([sum(trials[place] for place in members) / len(members) for members in places])
    few = [np.stack([_of_likeliest(trials[place], likeliest) for place in members]) for members in places]
    own = [np.stack([_position(trials[place], likeliest) for place in members]) for members in places]
    found = np.empty(draws.shape)
    for row, (weight, drawn) in enumerate(zip(weights, draws, strict=True)):
        ensembles = _ensembles(few, [drawn[members] for members in places])
        for members, predicted, winners in zip(places, own, ensembles, strict=True):
            found[row, members] = (predicted == winners) @ weight
    return found


def _places(families: Sequence[str]) -> list[NDArray[np.int64]]:
    """Of the trials of each family."""
    return [np.flatnonzero(np.array(families) == family) for family in sorted(set(families))]


def _likeliest(means: Sequence[Array]) -> NDArray[np.int64]:
    """The classes of each example to which some family gives most, in order, [R, min(C, `MOST_CLASSES`)].

    Args:
        means: Of the families, [R, C].
    """
    highest = np.max(means, axis=0)
    if highest.shape[1] <= MOST_CLASSES:
        return np.broadcast_to(np.arange(highest.shape[1]), highest.shape)
    return np.sort(np.argpartition(-highest, MOST_CLASSES, axis=1)[:, :MOST_CLASSES], axis=1)


def _of_likeliest(probabilities: Array, likeliest: NDArray[np.int64]) -> Array:
    """[R, K]."""
    return np.take_along_axis(probabilities, likeliest, axis=1).astype(np.float32)


def _position(probabilities: Array, likeliest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the predicted classes among the likeliest, [R]; -1 where they are not among them."""
    is_own = likeliest == probabilities.argmax(axis=1)[:, None]
    return np.where(is_own.any(axis=1), is_own.argmax(axis=1), -1)


def _ensembles(few: Sequence[Array], drawn: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Position of the winning class for each trial, by family, [N, R].

    Args:
        few: Softmax of the N trials of each family, [N, R, K].
        drawn: How often each of them is drawn, [N].
    """
    sums = [np.tensordot(counts.astype(np.float32), each, axes=1) for counts, each in zip(drawn, few, strict=True)]
    total = sum(each / len(counts) for counts, each in zip(drawn, sums, strict=True))
    return [
        _winners(each, counts, own, total - own / len(counts))
        for counts, each, own in zip(drawn, few, sums, strict=True)
    ]


def _winners(family: Array, drawn: NDArray[np.int64], summed: Array, others: Array) -> NDArray[np.int64]:
    """For each trial of a family, [N, R].

    Args:
        family: Softmax of its trials, [N, R, K].
        drawn: How often each of them is drawn, [N].
        summed: Sum of the drawn ones, [R, K].
        others: Sum of the means of the other families, [R, K].
    """
    size = len(drawn)
    of_undrawn = (size * others + summed).argmax(axis=1)

    def winner(probabilities: Array, count: int) -> NDArray[np.int64]:
        if count == 0:
            return of_undrawn
        if count < size:
            return np.asarray((size - count) * others + (summed - count * probabilities)).argmax(axis=1)
        rest = family.sum(axis=0) - probabilities if size > 1 else 0 * probabilities
        return np.asarray(max(1, size - 1) * others + rest).argmax(axis=1)

    return np.stack([winner(each, count) for each, count in zip(family, drawn.tolist(), strict=True)])
