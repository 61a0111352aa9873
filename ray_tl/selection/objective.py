"""What a search maximises at every epoch: several label-free scores as one number."""

import math
from collections.abc import Mapping, Sequence

from ray_tl.selection.guards import collapse
from ray_tl.selection.rule import SelectionContext

COLLAPSE_PENALTY = 1.0

JUDGED = ("neighbours", "nearest_labels")


def objective(scores: Mapping[str, float], histogram: Sequence[float], context: SelectionContext) -> float:
    """The mean of source accuracy, with the weight that `context` gives it, and of scores of the target.

    What is gained on the source carries over to a target nearby (Miller et al., "Accuracy on the Line", 2021,
    https://arxiv.org/abs/2107.04649), and not to one far away: the weight is 2 - 2 a, where a classifier tells the
    domains apart with accuracy a by the features of the pretrained backbone (the proxy A-distance of Ben-David et al.,
    2007, from 2 to 0).

    Those of the target are `neighbours` and `nearest_labels` where they were recorded, because training can't bend the
    space that they look in; else `confidence`. A network that has collapsed is lowered by `COLLAPSE_PENALTY`, so that
    it ranks below every sound one but still against its like.

    Args:
        scores: Must hold all of `NEEDED_VALIDATORS`.
        histogram: Share of each class among the predictions, [C].
        context: Of the study.
    """
    judged = [scores[name] for name in JUDGED if name in scores]
    target = judged or [confidence(scores, len(histogram), context.num_target)]
    penalty = COLLAPSE_PENALTY if collapse(histogram, context.target_shares) else 0.0
    weight = context.source_weight
    return (weight * scores["source_accuracy"] + sum(target)) / (weight + len(target)) - penalty


def confidence(scores: Mapping[str, float], num_classes: int, num_examples: int) -> float:
    """The mean of IM and BNM, both scaled to [0, 1] and believed as far as the network is right on its source.

    IM is divided by log C, BNM by its largest value sqrt(C / N) (Cui et al., 2020, https://arxiv.org/abs/2003.12237,
    section 3.2). A network that was trained to be sure fools both, so neither counts for more than it would if the
    predictions were spread evenly over the classes and as sure as they are right on held-out source examples:
    probability a for one class and b = (1 - a) / (C - 1) for each other gives IM log C + a log a + (1 - a) log b, and
    BNM a sqrt(C / N). Where shares of the target are stated, both measure against these, and have the same largest
    values; IM below 0 counts as 0.

    Args:
        scores: Must hold `source_accuracy`, `im` and `bnm`.
        num_classes: C.
        num_examples: N, rows of the target.
    """
    right = max(scores["source_accuracy"], 1 / num_classes)
    other = (1 - right) / (num_classes - 1)
    entropy = -sum(share * math.log(share) for share in (right, *[other] * (num_classes - 1)) if share > 0)
    im = min(max(0.0, scores["im"]) / math.log(num_classes), 1 - entropy / math.log(num_classes))
    bnm = min(scores["bnm"] * math.sqrt(num_examples / min(num_classes, num_examples)), right)
    return (im + bnm) / 2
