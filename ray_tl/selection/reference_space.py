"""Feature spaces of ended trials, in which the predictions of others are held against one another."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_tl.neighbours import LEAST_TRUST, Neighbours, kappa, nearest_across, nearest_neighbours
from ray_tl.validation.evidence import FinalEvidence

SAME = 0.95  # share of equal neighbours: rounding may turn the order of two that are equally near


@dataclass(frozen=True)
class ReferenceSpace:
    """What the features of one trial say of the target, whatever its head predicts.

    Attributes:
        neighbours: k-nearest-neighbour graph among R target examples.
        votes: Share of each class among the nearest labelled source examples of each, [R, C].
        owners: Numbers of the trials whose features these are: several with a frozen backbone.
        family: Of the first owner; see `families`.
    """

    neighbours: Neighbours
    votes: NDArray[np.floating]
    owners: frozenset[int]
    family: str


def reference_spaces(
    evidence: Mapping[int, FinalEvidence], families: Mapping[int, str], num_classes: int
) -> list[ReferenceSpace]:
    """The different spaces among those of ended trials that can be trusted.

    A space in which neighbours among held-out source examples hardly share their label can't say much of the target.

    Args:
        evidence: By number of the trial.
        families: By number of the trial.
        num_classes: C.
    """
    found: list[ReferenceSpace] = []
    for number, each in evidence.items():
        if trust(each, num_classes) < LEAST_TRUST:
            continue
        features = each.features["target"]
        neighbours = nearest_neighbours(features.values, features.rows)
        same = next((place for place, other in enumerate(found) if _are_the_same(neighbours, other.neighbours)), None)
        if same is not None:
            found[same] = replace(found[same], owners=found[same].owners | {number})
            continue
        nearest = nearest_across(features.values, each.features["source"].values)
        votes = np.eye(num_classes, dtype=np.float32)[each.training_labels[nearest]].mean(axis=1)
        found.append(ReferenceSpace(neighbours, votes, frozenset({number}), families[number]))
    return found


def trust(evidence: FinalEvidence, num_classes: int) -> float:
    """Agreement of the source's own labels between neighbours on the hold-out: 0 by chance, at most 1."""
    features = evidence.features["source_holdout"]
    labels = evidence.holdout_labels[features.rows]
    nearest = nearest_neighbours(features.values, features.rows).nearest
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    return kappa(float((labels[nearest] == labels[:, None]).mean()), float((shares**2).sum()))


def _are_the_same(first: Neighbours, second: Neighbours) -> bool:
    return np.array_equal(first.rows, second.rows) and float((first.nearest == second.nearest).mean()) >= SAME
