"""When a score must not be believed."""

SOURCE_MARGIN = 0.1


def source_loss(accuracy: float, baseline: float) -> str | None:
    """Why the network has forgotten its source; `None` if it has not.

    Args:
        accuracy: On held-out source examples, in [0, 1].
        baseline: The same of source-only.
    """
    if accuracy >= baseline - SOURCE_MARGIN:
        return None
    return f"source accuracy {accuracy:.1%} is more than {SOURCE_MARGIN:.0%} below source-only's {baseline:.1%}"
