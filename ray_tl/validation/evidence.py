"""What a trained network says about its domains: all that validators may look at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.neighbours import Neighbours

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Features:
    """Features of some rows of a domain, as the head of the network sees them.

    Attributes:
        rows: Which rows of the probabilities of the domain these are, int64 [R]; for `training`, of the source.
        values: [R, D].
    """

    rows: NDArray[np.int64]
    values: Array


@dataclass(frozen=True)
class SourceEvidence:
    """On labelled source examples.

    Attributes:
        probabilities: Softmax on held-out examples, [N, C].
        labels: True classes of them, [N].
        features: Of held-out examples; left by a trial that has ended.
        training: Features of examples that the network was trained on; left by a trial that has ended.
        training_labels: Of the rows of `training`, [S].
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    features: Features | None = None
    training: Features | None = None
    training_labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Mixes:
    """Predictions on mixtures of two target examples, `ratio` of the first and the rest of the second.

    Attributes:
        first: Rows of the target, [K].
        second: Rows of the target, [K].
        ratio: In (0.5, 1).
        probabilities: Softmax on the mixtures, [K, C].
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    ratio: float
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class TargetEvidence:
    """On unlabelled target examples; there is no place for a label.

    Attributes:
        probabilities: Softmax, [M, C].
        neighbours: k-nearest-neighbour graph among the examples in a space that no trial trains, where there is one.
        logits: Of which the probabilities are the softmax, each row less its mean, [M, C].
        features: Left by a trial that has ended.
        mixes: Left by a trial that has ended.
        head: Weights of a linear head, [C, D]; `None` for another one.
    """

    probabilities: NDArray[np.float32]
    neighbours: Neighbours | None = None
    logits: Array | None = None
    features: Features | None = None
    mixes: Mixes | None = None
    head: Array | None = None

    def histogram(self) -> NDArray[np.float64]:
        """Share of each class among the predictions, [C], sums to 1."""
        classes = self.probabilities.shape[1]
        counts = np.bincount(self.probabilities.argmax(axis=1), minlength=classes)
        return counts / max(1, counts.sum())


@dataclass(frozen=True)
class PoolEvidence:
    """What the trials of a study say together.

    Attributes:
        probabilities: Mean softmax of all trials on the target, [M, C].
    """

    probabilities: NDArray[np.float32]
