"""What the trials of a search say of its target and of its champion, as lines for users, from `champion.json`."""

from collections.abc import Mapping

FINDINGS = ("expected", "not_expected")


def finding_lines(content: Mapping[str, object]) -> list[str]:
    """One line a finding; none from a file of an older study.

    Args:
        content: As of `ray_tl.selection.findings`.

    Raises:
        KeyError, TypeError: If it is not what was written.
    """
    expected = content.get("expected")
    if isinstance(expected, Mapping):
        return [str(expected["words"])]
    reason = content.get("not_expected")
    return [] if reason is None else [f"no accuracy on the target is expected: {reason}"]
