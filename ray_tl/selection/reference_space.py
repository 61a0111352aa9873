"""Feature spaces of ended trials, in which predictions of the others are held against one another."""

from ray_tl.neighbours import LabelledSpace, nearest_neighbours
from ray_tl.validation.evidence import FinalEvidence


def labelled_space(evidence: FinalEvidence, num_classes: int) -> LabelledSpace:
    """k-nearest-neighbour graph of the target in the features of a trial, and how far source labels bear it out."""
    source, target = evidence.features["source_holdout"], evidence.features["target"]
    neighbours = nearest_neighbours(source.values, source.rows)
    trust = neighbours.agreement(evidence.holdout_labels, num_classes)
    return LabelledSpace(nearest_neighbours(target.values, target.rows), trust)
