"""Do predictions hold where a target example is mixed with another?"""

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput, Unavailable
from ray_tl.validation.checks import at_rows, needed, usable
from ray_tl.validation.evidence import TargetEvidence
from ray_tl.validation.validators import VALIDATORS

Classes = NDArray[np.int64]


def mix_consistency(first: Classes, second: Classes, mixed: Classes) -> float:
    """Share of mixtures that get the class of their larger part: the mean of two shares, in [0, 1].

    MixVal of Hu et al., "Mixed Samples as Probes for Unsupervised Model Selection in Domain Adaptation", 2023,
    https://openreview.net/forum?id=ackajXqei2, algorithm 1. One share is that of mixtures within a class, which probe
    the density around examples, the other that of mixtures of two classes, which probe the boundary.

    Args:
        first: Predicted class of the larger part of each mixture, [K].
        second: Of the smaller part, [K].
        mixed: Of the mixture, [K].

    Raises:
        Unavailable: If there are no mixtures of one of the two kinds.
    """
    kept, within = mixed == first, first == second
    if within.all() or not within.any():
        kind = "of two classes" if within.all() else "within a class"
        raise Unavailable(f"validator 'mixval' needs mixtures {kind}, as the network predicts them; leave it out.")
    return float(kept[within].mean() + kept[~within].mean()) / 2


@VALIDATORS.register("mixval")
class MixVal:
    """Share of mixtures of two target examples that get the class predicted for their larger part."""

    higher_is_better = True
    needs_end = True

    def score(self, target: TargetEvidence) -> float:
        what = "predictions on mixtures of target examples, which a trial leaves when it has ended"
        mixes = needed("mixval", what, target.mixes)
        mixed = usable(mixes.probabilities).argmax(axis=1)
        if not len(mixes.first) == len(mixes.second) == len(mixed):
            raise InvalidInput(
                f"{len(mixed)} mixtures do not match {len(mixes.first)} first and {len(mixes.second)} second parts; "
                "give one of each."
            )
        classes = usable(target.probabilities).argmax(axis=1)
        return mix_consistency(at_rows(classes, mixes.first), at_rows(classes, mixes.second), mixed)
