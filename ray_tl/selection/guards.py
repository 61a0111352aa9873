"""When a score must not be believed."""

import math
from collections.abc import Sequence

SMALLEST_SPREAD = 0.6
SOURCE_MARGIN = 0.1
ONE_SIDED_5_PERCENT = 1.645  # quantile of the normal distribution


def collapse(histogram: Sequence[float], shares: Sequence[float] | None) -> str | None:
    """Why the predictions on the target have collapsed to few classes; `None` if they have not.

    A single class for all is a collapse unless the target is known to hold no other. How few are too few can be told
    only where the shares of the target are known: a target that holds half of the classes is no collapse.

    Args:
        histogram: Share of each class among the predictions, [C].
        shares: Share of each class that is expected of the target, [C]; `None` where it is not known.
    """
    predicted = effective_classes(histogram)
    if shares is None:
        return "predictions are of a single class" if max(histogram) >= 1 else None
    expected = effective_classes(shares)
    if predicted >= SMALLEST_SPREAD * expected and (max(histogram) < 1 or max(shares) >= 1):
        return None
    return f"predictions spread over {predicted:.1f} effective classes where the target has {expected:.1f}"


def effective_classes(histogram: Sequence[float]) -> float:
    """exp of the entropy of a class histogram, in [1, C]: how many classes are really predicted."""
    return math.exp(-sum(share * math.log(share) for share in histogram if share > 0))


def source_loss(accuracy: float, baseline: float) -> str | None:
    """Why the network has forgotten its source; `None` if it has not.

    Args:
        accuracy: On held-out source examples, in [0, 1].
        baseline: The same of source-only.
    """
    if accuracy >= baseline - SOURCE_MARGIN:
        return None
    return f"source accuracy {accuracy:.1%} is more than {SOURCE_MARGIN:.0%} below source-only's {baseline:.1%}"


def no_better_on_source(accuracy: float, baseline: float, num_examples: int) -> str | None:
    """Why the source does not say that a network is better than source-only; `None` if it does, beyond chance.

    By a one-sided test at 5 %. The difference of two shares of N examples, as if they were other examples, has the
    variance (a (1 - a) + b (1 - b)) / N; on the same examples it is less, so this errs towards staying.

    Args:
        accuracy: a, on held-out source examples, in [0, 1].
        baseline: b, the same of source-only.
        num_examples: N, held-out source examples.
    """
    variance = (accuracy * (1 - accuracy) + baseline * (1 - baseline)) / num_examples
    if accuracy - baseline > ONE_SIDED_5_PERCENT * math.sqrt(variance):
        return None
    return f"source accuracy {accuracy:.1%} is not above source-only's {baseline:.1%} beyond chance"
