"""The prior of a study's target: as users state it, or as its trials estimate it."""

from collections.abc import Mapping

import numpy as np

from ray_tl.errors import InvalidInput
from ray_tl.selection.choice import TrialEvidence
from ray_tl.selection.prior.estimate import PriorEstimate, Vector, total_variation
from ray_tl.selection.prior.pooling import TrialOutputs, estimate_prior

STATED = "stated"


def stated_prior(shares: Vector, source_shares: Vector) -> PriorEstimate:
    """Shares that are known: their intervals have no width, and any difference is beyond chance."""
    shift = float(total_variation(shares, source_shares))
    return PriorEstimate(shares, shares, shares, source_shares, shift, (shift, shift), shift > 1e-6, 1.0, 0, 0, STATED)


def prior_of_pool(
    outputs: Mapping[int, TrialEvidence],
    families: Mapping[int, str],
    merits: Mapping[int, float],
    source_shares: Vector,
) -> PriorEstimate | None:
    """Shares by the better half of the trials, the better the more, each family with one vote.

    The weight of a trial is its merit above the average: poor trials take their own mistakes for a shift of shares.

    Args:
        outputs: By number of the trial, of those that no guard rejects.
        families: By number of the trial.
        merits: By number of the trial.
        source_shares: Share of each class among the source labels, [C].

    Returns:
        `None` where they can't say.
    """
    labels = next((each.final.holdout_labels for each in outputs.values() if each.final is not None), None)
    if labels is None or not len(labels):
        return None
    average = sum(merits[number] for number in outputs) / len(outputs)
    weights = {number: max(0.0, merits[number] - average) for number in outputs}
    are_alike = max(weights.values()) < 1e-9
    trials = [
        TrialOutputs(each.source_holdout, each.target, 1.0 if are_alike else weights[number], families[number])
        for number, each in outputs.items()
    ]
    try:
        return estimate_prior(trials, labels, np.asarray(source_shares))
    except InvalidInput:
        return None
