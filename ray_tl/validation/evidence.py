"""What a trained network says about a domain: all that validators may look at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.neighbours import Neighbours


@dataclass(frozen=True)
class SourceEvidence:
    """On held-out source examples.

    Attributes:
        probabilities: Softmax, [N, C].
        labels: True classes, [N].
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TargetEvidence:
    """On unlabelled target examples; there is no place for a label.

    Attributes:
        probabilities: Softmax, [M, C].
        neighbours: Who is near whom among the examples, where that is known.
    """

    probabilities: NDArray[np.float32]
    neighbours: Neighbours | None = None

    def histogram(self) -> NDArray[np.float64]:
        """Share of each class among the predictions, [C], sums to 1."""
        classes = self.probabilities.shape[1]
        counts = np.bincount(self.probabilities.argmax(axis=1), minlength=classes)
        return counts / max(1, counts.sum())
