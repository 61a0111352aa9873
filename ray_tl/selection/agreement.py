"""How far what each trial predicts on the target fits what the other trials have learned.

Two views that fail in different ways, each of every trial by the others alone:

- structure: examples that lie together in the feature space of another trial should get one class. A trial bends its
  own features until its predictions suit them, but not those of others. Classes that are swapped or merged agree as
  well, and no class balance is preferred.
- names: predictions should be those of the other trials' ensemble (EnsV: Hu et al., "Towards Reliable Model Selection
  for Unsupervised Domain Adaptation", 2024, https://openreview.net/forum?id=9aJ2VVS7sR), in which each family of
  methods has one vote, and of the labelled source examples nearest in the feature spaces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ray_tl.selection.reference_space import ReferenceSpace

LEAST_SPACES = 3  # with two, how good a trial is can't be told from how good the other's space is
LEAST_TRIALS = 3
NUM_RESAMPLES = 200

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agreements:
    """Of every trial with the others.

    Attributes:
        numbers: Of the trials, I.
        structure: Mean over the spaces that a trial does not own, less that of all trials in them; on all examples and
            on resamples of examples and spaces, [1 + B, I].
        names: Share of examples, on all and on resamples of them, [1 + B, I].
        num_spaces: Different ones.
    """

    numbers: tuple[int, ...]
    structure: Array
    names: Array
    num_spaces: int

    def merits(self) -> Array:
        """Mean of both ranks among the trials, as shares of them, [1 + B, I] in (0, 1]: a Borda count."""
        ranks = [rankdata(each, axis=1) for each in (self.structure, self.names)]
        merits: Array = (ranks[0] + ranks[1]) / (2 * len(self.numbers))
        return merits


def agreements(
    target: Mapping[int, NDArray[np.floating]],
    families: Mapping[int, str],
    spaces: Sequence[ReferenceSpace],
    num_classes: int,
    seed: int = 0,
) -> Agreements | None:
    """Both agreements, on all examples and on bootstrap resamples.

    Args:
        target: Softmax by number of the trial, [M, C].
        families: By number of the trial.
        spaces: Different ones.
        num_classes: C.
        seed: Of the resamples.

    Returns:
        `None` where there are too few trials or spaces to compare.
    """
    if len(spaces) < LEAST_SPACES or len(target) < LEAST_TRIALS:
        return None
    rows = spaces[0].neighbours.rows
    random = np.random.default_rng(seed)
    weights, drawn = _weights(len(rows), random), _drawn_spaces([space.family for space in spaces], random)
    probabilities = {number: each[rows] for number, each in target.items()}
    own = np.stack([each.argmax(axis=1) for each in probabilities.values()])
    structure = _structure(tuple(target), own, spaces, weights, drawn, num_classes)
    hits = own == _ensembles_of_others(probabilities, families, spaces)
    return Agreements(tuple(target), structure, weights @ hits.T, len(spaces))


def _weights(num_rows: int, random: np.random.Generator) -> Array:
    """Weight of each example in the whole, and in every resample, [1 + B, R]; each row sums to 1."""
    drawn = random.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=NUM_RESAMPLES)
    return np.concatenate([np.ones((1, num_rows)), drawn]) / num_rows


def _drawn_spaces(families: Sequence[str], random: np.random.Generator) -> Array:
    """Weight of each space in the whole, and in every resample, [1 + B, J].

    A resample draws families, then spaces of each: those of one family of methods err alike.
    """
    groups = [np.flatnonzero([each == family for each in families]) for family in dict.fromkeys(families)]
    drawn = np.zeros((NUM_RESAMPLES, len(families)))
    for resample in drawn:
        for group in random.integers(len(groups), size=len(groups)):
            members = groups[group]
            np.add.at(resample, members[random.integers(len(members), size=len(members))], 1.0)
    return np.concatenate([np.ones((1, len(families))), drawn])


def _structure(
    numbers: tuple[int, ...],
    own: NDArray[np.int64],
    spaces: Sequence[ReferenceSpace],
    weights: Array,
    drawn: Array,
    num_classes: int,
) -> Array:
    """See `Agreements.structure`.

    Args:
        numbers: Of the trials, I.
        own: Classes predicted by each of them, [I, R].
        spaces: J.
        weights: Of the examples, [1 + B, R].
        drawn: Weights of the spaces, [1 + B, J].
        num_classes: C.
    """
    by_chance = np.stack([_repeats(predicted, weights, num_classes) for predicted in own], axis=1)
    summed, total = np.zeros_like(by_chance), np.zeros_like(by_chance)
    for column, space in enumerate(spaces):
        nearest = space.neighbours.nearest
        alike = np.stack([(predicted[nearest] == predicted[:, None]).mean(axis=1) for predicted in own])
        agreement = _kappa(weights @ alike.T, by_chance)
        counts = np.array([number not in space.owners for number in numbers])
        if not counts.any():
            continue
        centred = agreement - agreement[:, counts].mean(axis=1, keepdims=True)
        summed += np.where(counts, centred, 0) * drawn[:, column : column + 1]
        total += counts * drawn[:, column : column + 1]
    return np.divide(summed, total, out=np.zeros_like(summed), where=total > 0)


def _repeats(predicted: NDArray[np.int64], weights: Array, num_classes: int) -> Array:
    """Chance that two examples are of one predicted class, in every resample, [1 + B]."""
    shares = np.stack([np.bincount(predicted, row, minlength=num_classes) for row in weights])
    repeats: Array = (shares**2).sum(axis=1)
    return repeats


def _kappa(agreement: Array, by_chance: Array) -> Array:
    """See `ray_tl.neighbours.kappa`."""
    room = np.maximum(1 - by_chance, 1e-12)
    found: Array = np.where(by_chance < 1 - 1e-12, (agreement - by_chance) / room, 0.0)
    return found


def _ensembles_of_others(
    probabilities: Mapping[int, NDArray[np.floating]], families: Mapping[int, str], spaces: Sequence[ReferenceSpace]
) -> NDArray[np.int64]:
    """Class that the others together predict for each example, for every trial, [I, R].

    Half of the vote is that of the mean softmax, half that of the nearest labelled source examples; families of methods
    count alike in both.
    """
    votes = _Votes([(frozenset({number}), families[number], each) for number, each in probabilities.items()])
    labels = _Votes([(space.owners, space.family, space.votes) for space in spaces])
    return np.stack([(votes.without(number) + labels.without(number)).argmax(axis=1) for number in probabilities])


class _Votes:
    """Distributions over classes, [R, C], of owners in families.

    Args:
        members: Owners, family, distribution.
    """

    def __init__(self, members: Sequence[tuple[frozenset[int], str, NDArray[np.floating]]]) -> None:
        self._members = members
        self._sums: dict[str, Array] = {}
        for _, family, each in members:
            self._sums[family] = self._sums.get(family, np.zeros(each.shape)) + each

    def without(self, number: int) -> Array:
        """Mean over families of the mean of their members, those of one trial left out, [R, C]."""
        means = []
        for family, total in self._sums.items():
            others = [item for item in self._members if item[1] == family and number not in item[0]]
            own = [each for owners, each_family, each in self._members if each_family == family and number in owners]
            if others:
                means.append((total - sum(own)) / len(others))
        return np.mean(means, axis=0) if means else np.zeros(self._members[0][2].shape)
