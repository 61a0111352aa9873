"""When a score must not be believed."""

import math

SOURCE_MARGIN = 0.1
ONE_SIDED_5_PERCENT = 1.645  # quantile of the normal distribution


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
