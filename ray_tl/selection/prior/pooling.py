"""Class shares of a target from many trials, as sure as these agree and no surer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput
from ray_tl.selection.prior.calibration import resampled_calibrations
from ray_tl.selection.prior.estimate import PriorEstimate, total_variation
from ray_tl.selection.prior.estimators import (
    black_box_shift,
    checked_shares,
    likely_shares,
    maximum_likelihood_shift,
)

Array = NDArray[np.floating]
Labels = NDArray[np.integer]
Vector = NDArray[np.float64]
LEAST_FAMILIES = 3  # fewer say too little of how far trials disagree
MOST_ROWS = 2000  # of a target that a resample looks at: intervals of a larger one are as wide as with so many
NUM_DRAWS = 2000
MOST = 0.8  # of the draws, or of pairs of them
CONTRADICTION = 0.5  # of a shift: where two estimators differ by more, something else than shares has changed
TINY = 1e-12
NEVER_ZERO, RESAMPLED_TOLERANCE = 1e-3, 1e-5


@dataclass(frozen=True)
class TrialOutputs:
    """What a trial says of the source hold-out and of the target.

    Attributes:
        holdout_probs: Softmax on held-out source examples, [N, C].
        target_probs: Softmax, [M, C].
        weight: >= 0, relative to other trials of its family; a family has the weight of its weightiest trial.
        family: Trials that are near-copies of one another, such as those of one method, have one vote; a trial without
            a family is one of its own. All that never look at the target are one family: they see it through the same
            boundaries, and are wrong of it in the same way.
    """

    holdout_probs: Array
    target_probs: Array
    weight: float = 1.0
    family: str | None = None


@dataclass(frozen=True)
class _Opinion:
    """Of a trial: its shares, resampled ones [B, C], and how far another estimator contradicts them."""

    shares: Vector
    resampled: Vector
    contradiction: float


def estimate_prior(
    trials: Sequence[TrialOutputs],
    source_labels: Labels,
    source_shares: Array,
    *,
    level: float = 0.9,
    num_resamples: int = 100,
    seed: int = 0,
    prior_rows: float = 0.0,
) -> PriorEstimate:
    """Shares of each class in the target, from the maximum-likelihood estimates of several trials.

    The estimate is the weighted median over families, class by class. What is known of the true shares is taken to be a
    draw of one family, of one of its trials, and of one resample of the target's and the hold-out's rows: a linear
    opinion pool (Stone, "The Opinion Pool", 1961), in which disagreement widens intervals and no trial is outvoted
    into certainty. Every estimate assumes that examples of a class look alike in both domains, which is false under
    domain shift, and errors of trials are alike. So a shift is beyond chance only if

    - at least `LEAST_FAMILIES` families have a vote,
    - four of five draws lie farther from the source's shares than four of five pairs of draws from one another, and
    - black-box shift estimation, from predicted classes alone, agrees within half of the shift, for most of the weight.

    Args:
        trials: At least one, of the same examples; rows in the same order.
        source_labels: True classes of the hold-out, [N].
        source_shares: Share of each class in the source, [C].
        level: Of the intervals, in (0, 1).
        num_resamples: B, of each trial's rows.
        seed: Of the resamples.
        prior_rows: As for `maximum_likelihood_shift`.

    Raises:
        InvalidInput: If there is no trial of any weight, or shapes don't match.
    """
    _check(trials, level, num_resamples)
    labels = np.asarray(source_labels)
    shares = checked_shares(source_shares, np.shape(trials[0].target_probs)[-1])
    trials = [trial for trial in trials if trial.weight > 0]
    rows = _Resamples.drawn(num_resamples, len(labels), len(trials[0].target_probs), seed)
    opinions = [_opinion(trial, labels, shares, rows, prior_rows) for trial in trials]
    votes, num_families = _votes(trials)
    centre = _median(np.stack([each.shares for each in opinions]), votes)
    draws = _pool(opinions, votes, np.random.default_rng(seed))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(draws, tails, axis=0)
    low[low * len(rows.rows) < 1] = 0  # less than one example: expectation maximisation nears 0 and never is there
    distances = total_variation(draws, shares)
    apart = total_variation(draws, draws[::-1])
    is_far = bool(np.quantile(distances, 1 - MOST) > np.quantile(apart, MOST))
    contradiction = _weighted_median(np.array([each.contradiction for each in opinions]), votes)
    return PriorEstimate(
        shares=centre,
        low=np.minimum(low, centre),
        high=np.maximum(high, centre),
        source_shares=shares,
        shift=float(total_variation(centre, shares)),
        shift_interval=(float(np.quantile(distances, tails[0])), float(np.quantile(distances, tails[1]))),
        is_beyond_chance=num_families >= LEAST_FAMILIES and is_far and contradiction < CONTRADICTION,
        level=level,
        num_trials=len(trials),
        num_families=num_families,
        method="maximum likelihood with bias-corrected calibration, median over families",
    )


@dataclass(frozen=True)
class _Resamples:
    """The same for all trials, so that they differ by themselves alone.

    Attributes:
        holdout: How often each row is drawn, [B, N].
        target: Likewise, [B, rows].
        rows: Of the target that are looked at.
    """

    holdout: NDArray[np.int64]
    target: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def drawn(cls, num: int, num_holdout: int, num_target: int, seed: int) -> "_Resamples":
        random = np.random.default_rng(seed)
        rows = np.sort(random.permutation(num_target)[:MOST_ROWS])
        holdout = random.multinomial(num_holdout, np.full(num_holdout, 1 / num_holdout), size=num)
        return cls(holdout, random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=num), rows)


def _opinion(
    trial: TrialOutputs, labels: Labels, source_shares: Vector, rows: _Resamples, prior_rows: float
) -> _Opinion:
    found = maximum_likelihood_shift(trial.holdout_probs, labels, trial.target_probs, prior_rows=prior_rows)
    holdout, target = np.asarray(trial.holdout_probs), np.asarray(trial.target_probs)[rows.rows]
    again = resampled_calibrations(found.calibration, holdout, labels, rows.holdout)
    start = np.maximum(found.shares, NEVER_ZERO)  # from 0 no step leads away
    resampled = [
        likely_shares(
            each(target),
            counts @ each(holdout) / len(labels),
            weights=drawn.astype(np.float64),
            prior_rows=prior_rows,
            start=start,
            tolerance=RESAMPLED_TOLERANCE,
        )
        for each, counts, drawn in zip(again, rows.holdout, rows.target, strict=True)
    ]
    contradiction = _contradiction(found.shares, holdout, labels, trial.target_probs, source_shares)
    return _Opinion(found.shares, np.stack(resampled), contradiction)


def _contradiction(found: Vector, holdout: Array, labels: Labels, target: Array, source_shares: Vector) -> float:
    """How far the estimate from predicted classes alone is from that by likelihood, over the shift; 0 if both agree."""
    other = black_box_shift(holdout, labels, target, source_shares, confusion="hard")
    return float(total_variation(found, other)) / max(float(total_variation(found, source_shares)), TINY)


def _votes(trials: Sequence[TrialOutputs]) -> tuple[Vector, int]:
    """Weight of each trial, [T], sums to 1; and the number of families."""
    keys = [trial.family if trial.family is not None else number for number, trial in enumerate(trials)]
    weights = np.array([trial.weight for trial in trials], dtype=np.float64)
    votes = np.zeros(len(trials))
    for key in dict.fromkeys(keys):
        members = np.array([other == key for other in keys])
        votes[members] = weights[members].max() * weights[members] / weights[members].sum()
    return votes / votes.sum(), len(set(keys))


def _pool(opinions: Sequence[_Opinion], votes: Vector, random: np.random.Generator) -> Vector:
    """Shares of drawn trials and resamples, [NUM_DRAWS, C]."""
    resampled = np.stack([each.resampled for each in opinions])
    trial = random.choice(len(opinions), size=NUM_DRAWS, p=votes)
    return resampled[trial, random.integers(resampled.shape[1], size=NUM_DRAWS)]


def _median(shares: Vector, votes: Vector) -> Vector:
    """Weighted median of each column, normalised, [C]."""
    middle = np.array([_weighted_median(column, votes) for column in shares.T])
    return middle / middle.sum() if middle.any() else votes @ shares


def _weighted_median(values: Vector, weights: Vector) -> float:
    """The mean of both middle values where half of the weight lies on either side."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    total /= total[-1]
    middle = [int(np.searchsorted(total, 0.5 + nudge)) for nudge in (-TINY, TINY)]
    return float(values[order[middle]].mean())


def _check(trials: Sequence[TrialOutputs], level: float, num_resamples: int) -> None:
    if not 0 < level < 1:
        raise InvalidInput(f"level={level} is no share of intervals that shall hold the truth; give one in (0, 1).")
    if num_resamples < 1:
        raise InvalidInput(f"num_resamples={num_resamples} leaves no interval; give 1 or more.")
    wrong = [trial.weight for trial in trials if not (np.isfinite(trial.weight) and trial.weight >= 0)]
    if wrong:
        raise InvalidInput(f"weight={wrong[0]} of a trial is no weight; give a finite number >= 0.")
    if not any(trial.weight > 0 for trial in trials):
        raise InvalidInput(f"trials: none of {len(trials)} has a weight above 0; give one that has.")
    shapes = {(np.shape(trial.holdout_probs), np.shape(trial.target_probs)) for trial in trials}
    if len(shapes) > 1:
        raise InvalidInput(f"trials have outputs of the shapes {sorted(shapes)}; give those on the same examples.")
