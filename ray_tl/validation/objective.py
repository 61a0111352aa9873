"""What a search maximises: several label-free scores as one number, and when that must not be believed."""

import math
from collections.abc import Mapping, Sequence

COLLAPSE_PENALTY = 1.0
SMALLEST_SPREAD = 0.6


def objective(
    scores: Mapping[str, float], histogram: Sequence[float], source_histogram: Sequence[float], num_examples: int
) -> float:
    """What a search maximises at every epoch: the mean of source accuracy and of one score of the target.

    That of the target is `neighbours` where it was recorded, because training can't bend the space that it looks in;
    else `confidence`. A network that has collapsed is lowered by `COLLAPSE_PENALTY`, so that it ranks below every sound
    one but still against its like.

    Args:
        scores: Must hold all of `NEEDED_VALIDATORS`.
        histogram: Share of each class among the predictions on the target, [C].
        source_histogram: Share of each class among the source labels, [C].
        num_examples: N, rows of the target.
    """
    target = scores["neighbours"] if "neighbours" in scores else confidence(scores, len(histogram), num_examples)
    penalty = COLLAPSE_PENALTY if collapse(histogram, source_histogram) else 0.0
    return (scores["source_accuracy"] + target) / 2 - penalty


def confidence(scores: Mapping[str, float], num_classes: int, num_examples: int) -> float:
    """The mean of IM and BNM, both scaled to [0, 1] and believed as far as the network is right on its source.

    IM is divided by log C, BNM by its largest value sqrt(C / N) (Cui et al., 2020, https://arxiv.org/abs/2003.12237,
    section 3.2). A network that was trained to be sure fools both, so neither counts for more than it would if the
    predictions were spread evenly over the classes and as sure as they are right on held-out source examples:
    probability a for one class and b = (1 - a) / (C - 1) for each other gives IM log C + a log a + (1 - a) log b, and
    BNM a sqrt(C / N).

    Args:
        scores: Must hold `source_accuracy`, `im` and `bnm`.
        num_classes: C.
        num_examples: N, rows of the target.
    """
    right = max(scores["source_accuracy"], 1 / num_classes)
    other = (1 - right) / (num_classes - 1)
    entropy = -sum(share * math.log(share) for share in (right, *[other] * (num_classes - 1)) if share > 0)
    im = min(scores["im"] / math.log(num_classes), 1 - entropy / math.log(num_classes))
    bnm = min(scores["bnm"] * math.sqrt(num_examples / min(num_classes, num_examples)), right)
    return (im + bnm) / 2


def collapse(histogram: Sequence[float], source_histogram: Sequence[float]) -> str | None:
    """Why the predictions on the target have collapsed to few classes; `None` if they have not.

    A single class is a collapse whatever the source: two uneven classes may count for less than 1 / 0.6.

    Args:
        histogram: Share of each class among the predictions, [C].
        source_histogram: Share of each class among the source labels, [C]; what one expects without knowing better.
    """
    predicted, expected = effective_classes(histogram), effective_classes(source_histogram)
    if max(histogram) < 1 and predicted >= SMALLEST_SPREAD * expected:
        return None
    return f"predictions spread over {predicted:.1f} effective classes where the source has {expected:.1f}"


def effective_classes(histogram: Sequence[float]) -> float:
    """exp of the entropy of a class histogram, in [1, C]: how many classes are really predicted."""
    return math.exp(-sum(share * math.log(share) for share in histogram if share > 0))
