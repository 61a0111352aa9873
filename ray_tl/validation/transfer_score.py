"""Transfer score: are the classifier even, the target features clustered, and the predictions sure and diverse?

Yang et al., "Can We Evaluate Domain Adaptation Models Without Target-Domain Labels?", 2024,
https://arxiv.org/abs/2305.18712.
"""

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput, Unavailable
from ray_tl.validation.checks import OF_THE_TARGET, finite, needed, usable, usable_features
from ray_tl.validation.evidence import TargetEvidence
from ray_tl.validation.validators import VALIDATORS, mutual_information

FEATURE_ROWS = 5000
SAMPLED = 0.05  # share of the rows that the Hopkins statistic samples
SHORTEST = 1e-12

Array = NDArray[np.float64]


def unevenness(weights: Array) -> float:
    """Mean squared difference between the angles of the classes and the widest that all can have, in square radians.

    The paper's uniformity U as its code has it: of C vectors, all angles can be arccos(-1 / (C - 1)) at once. 0 is
    best. A class of zero weight is at a right angle to all others.

    Args:
        weights: Of a linear head, [C, D], C >= 2.
    """
    unit = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), SHORTEST)
    angles = np.arccos(np.clip(unit @ unit.T, -1, 1))
    differ = ~np.eye(len(weights), dtype=bool)
    return float(np.square(angles[differ] - np.arccos(-1 / (len(weights) - 1))).mean())


def hopkins(features: Array) -> float:
    """Hopkins statistic, in [0, 1]: about 0.5 for features spread evenly over their box, near 1 for tight clusters.

    Hopkins and Skellam, "A New Method for Determining the Type of Distribution of Plant Individuals", 1954: distances
    u from points drawn evenly in the box to their nearest row, and w from as many rows to their nearest other row, give
    sum u / (sum u + sum w). As in the paper's code, distances are not raised to the power D, and one row in twenty is
    sampled. The draw is the same every time.

    Args:
        features: [R, D], R >= 2, not all alike.
    """
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(0)
    num_sampled = max(1, int(SAMPLED * len(features)))
    even = random.uniform(features.min(axis=0), features.max(axis=0), (num_sampled, features.shape[1]))
    sampled = features[random.permutation(len(features))[:num_sampled]]
    search = NearestNeighbors(algorithm="brute").fit(features)
    to_rows = search.kneighbors(even, 1)[0].sum()
    to_others = search.kneighbors(sampled, 2)[0][:, 1].sum()
    return float(to_rows / (to_rows + to_others))


@VALIDATORS.register("transfer_score")
class TransferScore:
    """Clustered target features, sure and diverse predictions, and classes at even angles, in one sum.

    Hopkins statistic plus mutual information over log C less unevenness, at most 2. Their code takes the mean of the
    mutual information of batches, this takes that of all rows.
    """

    higher_is_better = True
    needs_end = True

    def score(self, target: TargetEvidence) -> float:
        _, features = usable_features(needed("transfer_score", OF_THE_TARGET, target.features), FEATURE_ROWS)
        what = "the weights of a linear head, which a trial leaves when it has ended and has one"
        head = finite("weights of the head", needed("transfer_score", what, target.head))
        num_classes = usable(target.probabilities).shape[1]
        if head.ndim != 2 or len(head) != num_classes:
            raise InvalidInput(f"head of shape {head.shape} does not fit {num_classes} classes; give [C, D].")
        if num_classes < 2:
            raise Unavailable("validator 'transfer_score' compares classes, and there is one; leave it out.")
        if not np.ptp(features, axis=0).any():
            raise Unavailable(
                "validator 'transfer_score' needs features that differ, and all of the target are alike; leave it out."
            )
        information = mutual_information(target.probabilities) / float(np.log(num_classes))
        return hopkins(features) + information - unevenness(head)
