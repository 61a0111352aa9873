"""Which classes does the target hold, and how many of each?"""

from ray_tl.selection.prior.calibration import Calibration, fit_calibration
from ray_tl.selection.prior.estimate import PriorEstimate, stated_shares
from ray_tl.selection.prior.estimators import (
    LikelyShares,
    black_box_shift,
    corrected,
    likely_shares,
    maximum_likelihood_shift,
    regularised_shift,
)
from ray_tl.selection.prior.pooling import TrialOutputs, estimate_prior

__all__ = [
    "Calibration",
    "LikelyShares",
    "PriorEstimate",
    "TrialOutputs",
    "black_box_shift",
    "corrected",
    "estimate_prior",
    "fit_calibration",
    "likely_shares",
    "maximum_likelihood_shift",
    "regularised_shift",
    "stated_shares",
]
