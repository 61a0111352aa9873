"""Does a trial predict what all trials of its study predict together?"""

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput
from ray_tl.validation.checks import usable
from ray_tl.validation.evidence import PoolEvidence, TargetEvidence
from ray_tl.validation.validators import VALIDATORS


def ensemble_agreement(probabilities: NDArray[np.floating], pool: NDArray[np.floating]) -> float:
    """Share of rows whose likeliest class is that of the mean softmax of the pool, in [0, 1].

    EnsV of Hu et al., "Towards Reliable Model Selection for Unsupervised Domain Adaptation: An Empirical Study and A
    Certified Baseline", 2024, https://openreview.net/forum?id=rI7kbFTSpr.

    Args:
        probabilities: Softmax of a trial, [M, C].
        pool: Mean softmax of all trials, [M, C].

    Raises:
        InvalidInput: If they do not match.
    """
    own, mean = usable(probabilities), usable(pool)
    if own.shape != mean.shape:
        raise InvalidInput(
            f"predictions of shape {own.shape} do not match {mean.shape} of the pool; give the same rows."
        )
    return float(np.mean(own.argmax(axis=1) == mean.argmax(axis=1)))


@VALIDATORS.register("ensv")
class EnsV:
    """Share of the target on which a trial predicts what the mean of all trials predicts."""

    higher_is_better = True
    needs_end = True

    def score(self, target: TargetEvidence, pool: PoolEvidence) -> float:
        return ensemble_agreement(target.probabilities, pool.probabilities)
