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
    outputs: Mapping[int, TrialEvidence], families: Mapping[int, str], source_shares: Vector
) -> PriorEstimate | None:
    """Shares by the trials that no guard rejects, each family with one vote; `None` where they can't say.

    Args:
        outputs: By number of the trial.
        families: By number of the trial.
        source_shares: Share of each class among the source labels, [C].
    """
    labels = next((each.final.holdout_labels for each in outputs.values() if each.final is not None), None)
    if labels is None or not len(labels):
        return None
    trials = [
        TrialOutputs(each.source_holdout, each.target, family=families[number]) for number, each in outputs.items()
    ]
    try:
        return estimate_prior(trials, labels, np.asarray(source_shares))
    except InvalidInput:
        return None
