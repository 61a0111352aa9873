"""How much a network is expected to lose from source to target, from its confidence alone."""

import numpy as np
from numpy.typing import NDArray

SMALL_SHIFT = 0.1


def expected_accuracy(holdout: NDArray[np.floating], accuracy: float, target: NDArray[np.floating]) -> float:
    """Average thresholded confidence (ATC): the share of the target that is predicted at least as surely as is right.

    Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance", 2022,
    https://arxiv.org/abs/2201.04234, section 4: the threshold is the confidence that as large a share of held-out
    source examples reaches as are predicted rightly. Meant for networks that were trained on the source alone: what was
    trained to be sure on the target fools it.

    Args:
        holdout: Softmax outputs on held-out source examples, [N, C], N >= 1.
        accuracy: On them, in [0, 1].
        target: Softmax outputs, [M, C], M >= 1.
    """
    threshold = np.quantile(holdout.max(axis=1), 1 - accuracy)
    return float((target.max(axis=1) >= threshold).mean())
