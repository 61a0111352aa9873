"""How much of the target is predicted as surely as is right on the source?"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from ray_tl.validation.checks import usable
from ray_tl.validation.evidence import SourceEvidence, TargetEvidence
from ray_tl.validation.metrics import accuracy
from ray_tl.validation.validators import VALIDATORS


def share_above(holdout: NDArray[np.floating], right: float, target: NDArray[np.floating]) -> float:
    """Share of the target whose confidence is at least that which a share `right` of the held-out examples reaches.

    Average thresholded confidence (ATC) of Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution
    Performance", 2022, https://arxiv.org/abs/2201.04234, section 4. Meant for networks that were trained on the source
    alone: what was trained to be sure on the target fools it.

    Args:
        holdout: Confidence on held-out source examples, of any scale, [N], N >= 1.
        right: Accuracy on them, in [0, 1].
        target: Confidence, [M], M >= 1.
    """
    return float((target >= np.quantile(holdout, 1 - right)).mean())


def expected_accuracy(holdout: NDArray[np.floating], accuracy: float, target: NDArray[np.floating]) -> float:
    """ATC by the largest probability: the share of the target that is predicted at least as surely as is right.

    Args:
        holdout: Softmax outputs on held-out source examples, [N, C], N >= 1.
        accuracy: On them, in [0, 1].
        target: Softmax outputs, [M, C], M >= 1.
    """
    return share_above(holdout.max(axis=1), accuracy, target.max(axis=1))


def expected_accuracy_by_entropy(holdout: NDArray[np.floating], accuracy: float, target: NDArray[np.floating]) -> float:
    """ATC by the negative entropy of the predictions; arguments as those of `expected_accuracy`."""
    return share_above(-entr(holdout).sum(axis=1), accuracy, -entr(target).sum(axis=1))


@VALIDATORS.register("atc")
class Atc:
    """Accuracy on the target that confidence lets expect, by the largest probability."""

    higher_is_better = True
    needs_end = False

    def score(self, source: SourceEvidence, target: TargetEvidence) -> float:
        right = accuracy(source.probabilities, source.labels)
        return expected_accuracy(usable(source.probabilities), right, usable(target.probabilities))


@VALIDATORS.register("atc_entropy")
class AtcEntropy:
    """Accuracy on the target that confidence lets expect, by the negative entropy."""

    higher_is_better = True
    needs_end = False

    def score(self, source: SourceEvidence, target: TargetEvidence) -> float:
        right = accuracy(source.probabilities, source.labels)
        return expected_accuracy_by_entropy(usable(source.probabilities), right, usable(target.probabilities))
