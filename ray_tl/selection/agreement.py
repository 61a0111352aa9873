"""How far what each trial predicts on the target fits what is known of the target without its labels.

Two views that fail in different ways:

- structure: target examples that lie together in the features of source-only should get one class. No other trial
  trains these features, so none can bend them until its predictions suit them. Classes that are swapped or merged agree
  as well, and no class balance is preferred.
- names: predictions should be those of the other trials' ensemble (EnsV: Hu et al., "Towards Reliable Model Selection
  for Unsupervised Domain Adaptation", 2024), in which each family of methods has one vote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.selection.reference_space import ReferenceSpace
from ray_tl.selection.votes import agreement_with_drawn, draws_of_trials

LEAST_SPACES = 3  # of trained ones: with two, how good a trial is can't be told from how good the other's space is
LEAST_TRIALS = 3
NUM_RESAMPLES = 200

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agreements:
    """Of every trial, on all examples and on resamples of them and of what they are held against.

    Attributes:
        numbers: Of the trials, I.
        structure: Agreement of neighbours beyond chance (Cohen's kappa), [1 + B, I]; where it is measured in several
            spaces, the mean over those that a trial does not own, less that of all trials in them.
        names: Share of examples on which the ensemble of the others agrees, [1 + B, I].
    """

    numbers: tuple[int, ...]
    structure: Array
    names: Array

    def merits(self) -> Array:
        """Mean of both standard scores among the trials, [1 + B, I]: how far above the average of the pool."""
        return (_standard(self.structure) + _standard(self.names)) / 2


def agreements(
    target: Mapping[int, NDArray[np.floating]],
    families: Mapping[int, str],
    spaces: Sequence[ReferenceSpace],
    num_classes: int,
    seed: int = 0,
) -> Agreements | None:
    """Both agreements, on all examples and on bootstrap resamples.

    A resample draws examples, and what trials are held against there: the trials that vote, within each family, and
    the spaces, where they are several. It is the same for all trials, so that differences between them are paired.

    Args:
        target: Softmax by number of the trial, [M, C].
        families: By number of the trial.
        spaces: In which structure is looked for; see `reference_spaces`.
        num_classes: C.
        seed: Of the resamples.

    Returns:
        `None` where there are too few trials or spaces to compare.
    """
    if not spaces or len(target) < LEAST_TRIALS:
        return None
    if not spaces[0].is_fixed and len(spaces) < LEAST_SPACES:
        return None
    target = dict(sorted(target.items()))  # so that their order does not change what is drawn
    rows = spaces[0].neighbours.rows
    random = np.random.default_rng(seed)
    weights = _draws(len(rows), random) / len(rows)
    probabilities = {number: each[rows] for number, each in target.items()}
    own = np.stack([each.argmax(axis=1) for each in probabilities.values()])
    names = weights[:1] @ (own == ensembles_of_others(probabilities, families)).T
    voters = draws_of_trials([families[number] for number in target], NUM_RESAMPLES, random)
    resampled = agreement_with_drawn(probabilities, families, weights[1:], voters)
    structure = agreement_by_structure(tuple(target), own, spaces, weights, _draws(len(spaces), random), num_classes)
    return Agreements(tuple(target), structure, np.concatenate([names, resampled]))


def _standard(values: Array) -> Array:
    """Values less their mean over the trials, over the standard deviation on all examples; 0 where all are equal.

    The noise of resamples adds to their own deviation: measured by that it would look smaller than it is.
    """
    spread = float(values[0].std())
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / spread if spread > 1e-12 else np.zeros_like(centred)


def _draws(num: int, random: np.random.Generator) -> Array:
    """How often each is drawn: once in the whole, as it comes in every resample, [1 + B, num]; each row sums to num."""
    drawn = random.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES)
    return np.concatenate([np.ones((1, num)), drawn])


def agreement_by_structure(
    numbers: tuple[int, ...],
    own: NDArray[np.int64],
    spaces: Sequence[ReferenceSpace],
    weights: Array,
    draws: Array,
    num_classes: int,
) -> Array:
    """See `Agreements.structure`; where only spaces that a trial owns are drawn, all others count.

    Args:
        numbers: Of the trials, I.
        own: Classes predicted by each of them, [I, R].
        spaces: J.
        weights: Of the examples, [1 + B, R]; each row sums to 1.
        draws: How often each space is drawn, [1 + B, J].
        num_classes: C.
    """
    by_chance = np.stack([_repeats(predicted, weights, num_classes) for predicted in own], axis=1)
    kappas, counts = [], []
    for space in spaces:
        nearest = space.neighbours.nearest
        alike = np.stack([(predicted[nearest] == predicted[:, None]).mean(axis=1) for predicted in own])
        agreement = _kappa(weights @ alike.T, by_chance)
        judged = np.array([space.is_fixed or number not in space.owners for number in numbers])
        mean = agreement.mean(axis=1, keepdims=True, where=judged) if judged.any() else 0
        kappas.append(np.where(judged, agreement - mean, 0))
        counts.append(judged)
    drawn = draws @ np.array(counts)
    times = np.where(drawn[:, None] > 0, draws[:, :, None], 1.0)
    summed: Array = np.einsum("bji,jbi->bi", times, np.array(kappas))
    return summed / np.maximum((times * np.array(counts)).sum(axis=1), 1)


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


def ensembles_of_others(
    probabilities: Mapping[int, NDArray[np.floating]], families: Mapping[int, str]
) -> NDArray[np.int64]:
    """Class of the largest mean softmax, families of methods counting alike, each trial left out in turn, [I, R]."""
    first = next(iter(probabilities.values()))
    sums: dict[str, Array] = {}
    for number, each in probabilities.items():
        sums[families[number]] = sums.get(families[number], np.zeros(first.shape)) + each
    counts = {family: sum(families[number] == family for number in probabilities) for family in sums}
    total = sum(each / counts[family] for family, each in sums.items())
    found = []
    for number, each in probabilities.items():
        family = families[number]
        rest = total - sums[family] / counts[family]
        if counts[family] > 1:
            rest = rest + (sums[family] - each) / (counts[family] - 1)
        found.append(np.asarray(rest).argmax(axis=1))
    return np.stack(found)
