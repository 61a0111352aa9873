"""Feature spaces of ended trials, in which predictions are held against neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ray_tl.neighbours import LEAST_TRUST, Neighbours, kappa, nearest_neighbours
from ray_tl.validation.evidence import FinalEvidence

SAME = 0.95  # share of equal neighbours: rounding may turn the order of two that are equally near


@dataclass(frozen=True)
class ReferenceSpace:
    """What the features of one trial say of the target, whatever its head predicts.

    Attributes:
        neighbours: k-nearest-neighbour graph among R target examples.
        owners: Numbers of the trials whose features these are: several with a frozen backbone.
        is_fixed: Whether nothing of the target has shaped it, so that it can judge even its owners.
    """

    neighbours: Neighbours
    owners: frozenset[int]
    is_fixed: bool = False


def reference_spaces(
    evidence: Mapping[int, FinalEvidence], baseline: int | None, num_classes: int
) -> list[ReferenceSpace]:
    """The space of source-only, if it can be trusted; where it did not end, the different ones of all others that can.

    A space in which neighbours among held-out source examples hardly share their label can't say much of the target.
    Then the others can't either: what training has made of them suits its own predictions, right or wrong.

    Args:
        evidence: By number of the trial.
        baseline: Number of source-only; `None` if it did not end.
        num_classes: C.
    """
    trusted = {number: each for number, each in evidence.items() if trust(each, num_classes) >= LEAST_TRUST}
    if baseline in evidence and baseline not in trusted:
        return []
    if baseline in trusted:
        return [ReferenceSpace(_graph(trusted[baseline]), frozenset({baseline}), is_fixed=True)]
    found: list[ReferenceSpace] = []
    for number, each in trusted.items():
        graph = _graph(each)
        same = next((place for place, other in enumerate(found) if _are_the_same(graph, other.neighbours)), None)
        if same is None:
            found.append(ReferenceSpace(graph, frozenset({number})))
        else:
            found[same] = replace(found[same], owners=found[same].owners | {number})
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


def _graph(evidence: FinalEvidence) -> Neighbours:
    features = evidence.features["target"]
    return nearest_neighbours(features.values, features.rows)
