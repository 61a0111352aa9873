"""What the trials of a search say of its target and of its champion, as lines for users, from `champion.json`."""

from collections.abc import Mapping

FINDINGS = ("expected", "not_expected", "prior")


def finding_lines(content: Mapping[str, object]) -> list[str]:
    """At most four lines; none from a file of an older study.

    Args:
        content: As of `ray_tl.selection.findings`.

    Raises:
        KeyError, TypeError: If it is not what was written.
    """
    return [*_expected_lines(content), *_prior_lines(content.get("prior"))]


def _expected_lines(content: Mapping[str, object]) -> list[str]:
    expected = content.get("expected")
    if isinstance(expected, Mapping):
        return [str(expected["words"])]
    reason = content.get("not_expected")
    return [] if reason is None else [f"no accuracy on the target is expected: {reason}"]


def _prior_lines(prior: object) -> list[str]:
    if prior is None:
        return []
    if not isinstance(prior, Mapping):
        raise TypeError(f"prior is {type(prior).__name__}")
    return [str(line) for line in prior["words"]]
