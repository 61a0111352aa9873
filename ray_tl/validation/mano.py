"""How far do target examples lie from the decision boundaries, by the norm of normalised logits?"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from ray_tl.errors import InvalidInput
from ray_tl.validation.checks import finite, needed
from ray_tl.validation.evidence import TargetEvidence
from ray_tl.validation.validators import VALIDATORS

POWER = 4
LARGEST_UNSURE = 5.0

Array = NDArray[np.float64]


def matrix_norm(logits: Array) -> float:
    """L4 norm of normalised logits over that of a matrix of ones, in [1 / C, 1].

    Xie et al., "MaNo: Exploiting Matrix Norm for Unsupervised Accuracy Estimation Under Distribution Shifts", 2024,
    https://arxiv.org/abs/2405.18979: (mean over all entries of Q^4)^(1/4), Q the logits normalised by `softrun`.

    Args:
        logits: [N, C], N, C >= 1.
    """
    return float(np.mean(softrun(logits) ** POWER) ** (1 / POWER))


def softrun(logits: Array) -> Array:
    """Logits made non-negative with sums of 1 over the classes, [N, C]: by softmax, or by a series that is less sure.

    Xie et al., eq. 6: softmax if phi, the mean of -log softmax over all entries, is above 5, and otherwise
    1 + z + z^2 / 2, as their code does less the smallest of each row. A row of equal logits is uniform.

    A departure: ours are logits less the mean of their row, because that is what evidence holds and what different
    heads have in common. Softmax does not see it, the series does.
    """
    log_shares: Array = log_softmax(logits, axis=1)
    if -log_shares.mean() > LARGEST_UNSURE:
        return np.exp(log_shares)
    series = 1 + logits + logits**2 / 2
    series -= series.min(axis=1, keepdims=True)
    sums = series.sum(axis=1, keepdims=True)
    return np.where(sums > 0, series / np.where(sums > 0, sums, 1), 1 / logits.shape[1])


@VALIDATORS.register("mano")
class Mano:
    """Matrix norm of normalised target logits; high when they are far from every boundary."""

    higher_is_better = True
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        logits = needed("mano", "logits on the target, which were not recorded", target.logits)
        if logits.ndim != 2 or 0 in logits.shape:
            raise InvalidInput(f"logits of shape {logits.shape} hold no prediction to judge; give [N, C], N, C >= 1.")
        return matrix_norm(finite("logits", logits))
