"""How good are predictions whose true classes are known?

Every function takes softmax outputs [N, C] and true classes [N], N >= 1, and gives plain Python numbers.
All raise `InvalidInput` for inputs that do not match and `TrialFailed` for predictions that are not finite.
"""

import numpy as np
from numpy.typing import NDArray

from ray_tl.validation.checks import usable_with_labels

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]


def summary(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """All metrics of a labelled domain by name."""
    metrics = (accuracy, balanced_accuracy, macro_f1, expected_calibration_error, brier, nll)
    return {metric.__name__: metric(probabilities, labels) for metric in metrics}


def accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Share of rows whose likeliest class is the true one."""
    probabilities, labels = usable_with_labels(probabilities, labels)
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def per_class_recall(probabilities: Probabilities, labels: Labels) -> dict[int, float]:
    """Share of each class's rows that are predicted as it; only classes that occur among the labels."""
    from sklearn.metrics import recall_score  # here, because every training worker would wait two seconds for it

    probabilities, labels = usable_with_labels(probabilities, labels)
    present = np.unique(labels)
    recalls = recall_score(labels, probabilities.argmax(axis=1), labels=present, average=None)
    return {int(label): float(recall) for label, recall in zip(present, recalls, strict=True)}


def balanced_accuracy(probabilities: Probabilities, labels: Labels) -> float:
    """Mean recall of the classes that occur among the labels."""
    return float(np.mean(list(per_class_recall(probabilities, labels).values())))


def macro_f1(probabilities: Probabilities, labels: Labels) -> float:
    """Mean F1 of the classes that occur among labels or predictions; 0 for a class that is never hit."""
    from sklearn.metrics import f1_score

    probabilities, labels = usable_with_labels(probabilities, labels)
    return float(f1_score(labels, probabilities.argmax(axis=1), average="macro", zero_division=0))


def expected_calibration_error(probabilities: Probabilities, labels: Labels, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, over bins of equal width in confidence; in [0, 1].

    Guo et al., "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599, eq. 3. Bin b of B
    holds confidences in ((b - 1) / B, b / B].
    """
    probabilities, labels = usable_with_labels(probabilities, labels)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins), 1, num_bins).astype(int) - 1
    gaps = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


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
