"""When a score must not be believed."""

import math
from collections.abc import Sequence

SMALLEST_SPREAD = 0.6
SOURCE_MARGIN = 0.1


def effective_classes(histogram: Sequence[float]) -> float:
    """exp of the entropy of a class histogram, in [1, C]: how many classes are really predicted."""
    return math.exp(-sum(share * math.log(share) for share in histogram if share > 0))


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


def source_loss(accuracy: float, baseline: float) -> str | None:
    """Why the network has forgotten its source; `None` if it has not.

    Args:
        accuracy: On held-out source examples, in [0, 1].
        baseline: The same of source-only.
    """
    if accuracy >= baseline - SOURCE_MARGIN:
        return None
    return f"source accuracy {accuracy:.1%} is more than {SOURCE_MARGIN:.0%} below source-only's {baseline:.1%}"
