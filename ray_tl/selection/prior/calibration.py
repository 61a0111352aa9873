"""Probabilities that mean what they say: bias-corrected temperature scaling."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Array = NDArray[np.floating]
Vector = NDArray[np.float64]
FLOOR = 1.2e-7  # float32's epsilon: of classes that a forest or neighbours rule out
PRIOR_SD = 2.0  # of biases and of the logarithm of the inverse temperature, in nats


@dataclass(frozen=True)
class Calibration:
    """Softmax of log-probabilities over a temperature, with a bias for each class.

    Attributes:
        log_scale: Logarithm of the inverse temperature; 0 changes nothing.
        biases: [C]; their sum is 0.
    """

    log_scale: float
    biases: Vector

    def __call__(self, probabilities: Array) -> Vector:
        """Calibrated probabilities, [N, C], each row sums to 1."""
        scaled: Vector = softmax(np.exp(self.log_scale) * _logits(probabilities) + self.biases, axis=1)
        return scaled

    @property
    def parameters(self) -> Vector:
        """The logarithm of the inverse temperature and the biases, [1 + C]."""
        return np.concatenate([[self.log_scale], self.biases])


def fit_calibration(probabilities: Array, labels: NDArray[np.integer]) -> Calibration:
    """Bias-corrected temperature scaling (BCTS) on labelled examples that were not trained on.

    Alexandari et al., "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation",
    2020, https://arxiv.org/abs/1901.06852. Departure: a weak normal prior on the parameters, as if one
    example in all, keeps them finite where every example is right or a class has none.

    Args:
        probabilities: Softmax, [N, C].
        labels: True classes, [N].
    """
    logits, one_hot = _logits(probabilities), np.eye(probabilities.shape[1])[labels]

    def loss(parameters: Vector) -> tuple[float, Vector]:
        scores = np.exp(parameters[0]) * logits + parameters[1:]
        of_truth = log_softmax(scores, axis=1)[one_hot > 0]
        prior = float(parameters @ parameters) / (2 * PRIOR_SD**2)
        slopes = _slopes(parameters, logits, softmax(scores, axis=1) - one_hot).sum(axis=0)
        return float(prior - of_truth.sum()), slopes + parameters / PRIOR_SD**2

    from scipy.optimize import minimize  # half a second, which processes that fit nothing need not wait for

    found = minimize(loss, np.zeros(1 + logits.shape[1]), jac=True, method="L-BFGS-B").x
    return Calibration(float(found[0]), found[1:] - found[1:].mean())


def resampled_calibrations(
    fitted: Calibration, probabilities: Array, labels: NDArray[np.integer], counts: NDArray[np.integer]
) -> list[Calibration]:
    """As if `fitted` had been fitted on rows drawn again, by one Newton step from it.

    Args:
        fitted: On `probabilities` and `labels`.
        probabilities: Softmax, [N, C].
        labels: True classes, [N].
        counts: How often each row was drawn, [B, N].
    """
    logits, one_hot = _logits(probabilities), np.eye(probabilities.shape[1])[labels]
    calibrated = fitted(probabilities)
    parameters = fitted.parameters
    slopes = counts @ _slopes(parameters, logits, calibrated - one_hot) + parameters / PRIOR_SD**2
    steps = np.linalg.solve(_curvature(parameters, logits, calibrated), slopes.T).T
    moved = parameters - steps
    return [Calibration(float(row[0]), row[1:] - row[1:].mean()) for row in moved]


def _logits(probabilities: Array) -> Vector:
    logits = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), FLOOR))
    return logits - logits.mean(axis=1, keepdims=True)


def _slopes(parameters: Vector, logits: Vector, residuals: Vector) -> Vector:
    """Gradient of each row's loss by the parameters, [N, 1 + C]."""
    by_scale = np.exp(parameters[0]) * (residuals * logits).sum(axis=1)
    return np.column_stack([by_scale, residuals])


def _curvature(parameters: Vector, logits: Vector, calibrated: Vector) -> Vector:
    """Expected Hessian of the loss with its prior, [1 + C, 1 + C] (Fisher information: always invertible)."""
    scaled = np.exp(parameters[0]) * logits
    mean = (calibrated * scaled).sum(axis=1, keepdims=True)
    centred = calibrated * (scaled - mean)
    hessian = np.eye(1 + logits.shape[1]) / PRIOR_SD**2
    hessian[0, 0] += (centred * scaled).sum()
    hessian[0, 1:] += centred.sum(axis=0)
    hessian[1:, 0] = hessian[0, 1:]
    hessian[1:, 1:] += np.diag(calibrated.sum(axis=0)) - calibrated.T @ calibrated
    return hessian
