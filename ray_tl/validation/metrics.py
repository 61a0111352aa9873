"""How good are predictions whose true classes are known?

Every function takes softmax outputs [N, C] and true classes [N], N >= 1, and gives plain Python numbers.
All raise `InvalidInput` for inputs that do not match and `TrialFailed` for predictions that are not finite.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ray_tl.validation.checks import usable_with_labels

if TYPE_CHECKING:
    from torch import Tensor

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]
_BELOW_ONE = 1 - 2**-24  # the float32 next to 1; torchmetrics would give a confidence of 1 a bin of its own


def summary(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """All metrics of a labelled domain by name."""
    metrics = (accuracy, balanced_accuracy, macro_f1, expected_calibration_error, brier, nll)
    return {metric.__name__: metric(probabilities, labels) for metric in metrics}


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of rows whose likeliest class is the true one."""
    probabilities, labels = usable_with_labels(probabilities, labels)
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def balanced_accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Mean recall of the classes that occur among the labels."""
    from torchmetrics.functional.classification import multiclass_recall  # here: it takes seconds to import

    predicted, classes, num_classes = _as_tensors(probabilities, labels)
    recalls = multiclass_recall(predicted, classes, num_classes, average="none")
    return float(recalls[classes.unique()].mean())


def macro_f1(probabilities: Probabilities, labels: Labels) -> float:
    """Mean F1 of the classes that occur among labels or predictions; 0 for a class that is never hit."""
    from torchmetrics.functional.classification import multiclass_f1_score

    predicted, classes, num_classes = _as_tensors(probabilities, labels)
    return float(multiclass_f1_score(predicted, classes, num_classes, average="macro"))


def expected_calibration_error(probabilities: Probabilities, labels: Labels, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, over bins of equal width in confidence; in [0, 1].

    Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599, eq. 3. Bin b of B
    holds confidences in ((b - 1) / B, b / B].
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    predicted, classes, num_classes = _as_tensors(probabilities, labels)
    predicted = predicted.clamp(max=_BELOW_ONE)
    return float(multiclass_calibration_error(predicted, classes, num_classes, n_bins=num_bins, norm="l1"))


def brier(probabilities: Probabilities, labels: Labels) -> float:
    """Mean squared distance between the prediction and the one-hot truth; in [0, 2].

    Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950: the sum over classes, not its half.
    """
    probabilities, labels = usable_with_labels(probabilities, labels)
    one_hot = np.eye(probabilities.shape[1])[labels]
    return float(np.square(probabilities - one_hot).sum(axis=1).mean())


def nll(probabilities: Probabilities, labels: Labels) -> float:
    """Mean negative log-likelihood of the true class, in nats.

    A probability counts as at least float32's epsilon, 1.2e-7, so one sure mistake costs 15.9 nats and not infinity.
    """
    probabilities, labels = usable_with_labels(probabilities, labels)
    of_truth = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_truth, np.finfo(np.float32).eps)).mean())


def _as_tensors(probabilities: Probabilities, labels: Labels) -> tuple["Tensor", "Tensor", int]:
    """What torchmetrics takes: predictions, classes and their number, at least two, of which one may be impossible."""
    import torch  # here: the driver of a search has no use for it

    probabilities, labels = usable_with_labels(probabilities, labels)
    if probabilities.shape[1] == 1:
        probabilities = np.pad(probabilities, ((0, 0), (0, 1)))
    return torch.from_numpy(probabilities), torch.from_numpy(labels.astype(np.int64)), probabilities.shape[1]
