"""What linear heads share: standard scores, logistic regression, and folding a linear map into one layer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.adaptation.closed_form.method import Array, State

C_RANGE = {"log_uniform": [1e-3, 1e3]}


@dataclass(frozen=True)
class StandardScore:
    """The map x -> (x - mean) / scale of each feature.

    Attributes:
        mean: [D].
        scale: Standard deviation over N, [D]; 1 for a feature that does not vary.
    """

    mean: Array
    scale: Array

    def apply(self, rows: Array) -> Array:
        return (rows - self.mean) / self.scale

    def fold(self, weight: Array, bias: Array) -> State:
        """State of an `nn.Linear` of raw features that equals this layer of standard scores.

        Args:
            weight: [C, D].
            bias: [C].
        """
        raw_weight = weight / self.scale
        return {"weight": raw_weight, "bias": bias - raw_weight @ self.mean}


def standard_score(rows: Array) -> StandardScore:
    """The standard score under which these rows [N, D] have mean 0 and deviation 1 in each feature that varies."""
    from sklearn.preprocessing import StandardScaler  # here, because every training worker would wait two seconds

    scaler = StandardScaler().fit(rows)
    return StandardScore(scaler.mean_, scaler.scale_)


def logistic_regression(rows: Array, labels: NDArray[np.int64], inverse_penalty: float) -> tuple[Array, Array]:
    """Weight [C, D] and bias [C] that minimise inverse_penalty * sum of cross-entropies + ||weight||^2 / 2.

    For two classes scikit-learn penalises the weight of the difference of their logits, not those of both; the
    difference is shared out evenly between them.

    Args:
        rows: [N, D].
        labels: [N], every class of 0..C-1 at least once, C >= 2.
        inverse_penalty: Above 0; scikit-learn's `C`.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=inverse_penalty, tol=1e-6, max_iter=1000).fit(rows, labels)
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    halves = np.array([[-0.5], [0.5]])
    return halves * model.coef_, halves[:, 0] * model.intercept_
