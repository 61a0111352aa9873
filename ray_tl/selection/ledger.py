"""What the search could not see: the only reader of oracle labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.domains import OracleLabels


def oracle_accuracy(
    probabilities: NDArray[np.float32], ids: Sequence[str], classes: Sequence[str], oracle: OracleLabels
) -> float:
    """Share of examples whose likeliest class is the true one, in [0, 1].

    Args:
        probabilities: As a trial recorded them, [N, C].
        ids: Of the examples, N.
        classes: Names of the C classes.
        oracle: Must know every id.
    """
    predicted = probabilities.argmax(axis=1)
    return float(np.mean([classes[row] == oracle.labels[key] for row, key in zip(predicted, ids, strict=True)]))
