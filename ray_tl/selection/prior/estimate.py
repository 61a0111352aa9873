"""What is known of the class shares of a target, as a value and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import all_at_once
from ray_tl.search_space.target_classes import target_class_problems

Vector = NDArray[np.float64]
ABSENT = 0.005  # a share below counts as none
MOST_NAMED = 5


@dataclass(frozen=True)
class PriorEstimate:
    """Class shares of a target.

    Attributes:
        shares: Of each class, [C], sums to 1.
        low: Lower ends of their intervals, [C].
        high: Upper ends, [C].
        source_shares: Of the source, [C].
        shift: Total variation distance between the two, in [0, 1].
        shift_interval: Of the shift.
        is_beyond_chance: Whether the source's shares don't agree with what is known.
        level: Of the intervals, in (0, 1).
        num_trials: With a weight.
        num_families: Of them, each with one vote.
        method: In words.
    """

    shares: Vector
    low: Vector
    high: Vector
    source_shares: Vector
    shift: float
    shift_interval: tuple[float, float]
    is_beyond_chance: bool
    level: float
    num_trials: int
    num_families: int
    method: str

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Classes of the source that the target seems to lack, [C]."""
        return (self.shares < ABSENT) & (self.source_shares >= ABSENT)

    def in_words(self, classes: Sequence[str]) -> list[str]:
        """One to three lines for users.

        Args:
            classes: Names of the C classes.
        """
        if not self.is_beyond_chance:  # an interval of what can't be negative would leave 0 out, and say the opposite
            return [f"No shift of the class shares that is beyond chance (estimate: {self.shift:.0%} of the examples)."]
        where = f"{self.shift:.0%} of the examples, {_between(*self.shift_interval)}"
        lines = [f"The class shares of the target differ from the source's by {where}."]
        if self.absent.any():
            names = [name for name, is_absent in zip(classes, self.absent, strict=True) if is_absent]
            lines.append(f"The target seems to hold no {_listed(names, 'or')}.")
        if changes := self._changes(classes):
            lines.append(f"The target seems to hold {_listed(changes, 'and')}.")
        return lines

    def _changes(self, classes: Sequence[str]) -> list[str]:
        """The largest of those that the intervals are sure of, the largest first."""
        change = self.shares - self.source_shares
        is_sure = ((self.source_shares < self.low) | (self.source_shares > self.high)) & ~self.absent
        order = [int(row) for row in np.argsort(-np.abs(change), kind="stable") if is_sure[row]]
        return [
            f"{'more' if change[row] > 0 else 'fewer'} {classes[row]} "
            f"({self.shares[row]:.0%}, source {self.source_shares[row]:.0%})"
            for row in order
        ]


def stated_shares(
    target_classes: str | Mapping[str, float], classes: Sequence[str], source_shares: NDArray[np.floating]
) -> Vector | None:
    """Shares of the target that users state by `data.target_classes`, [C]; `None` where they are to be estimated.

    Args:
        target_classes: As validated.
        classes: Names of the C classes.
        source_shares: Share of each class in the source, [C].

    Raises:
        InvalidInput: If a class is named that the source lacks.
    """
    if isinstance(target_classes, str):
        return np.asarray(source_shares, dtype=np.float64) if target_classes == "same" else None
    if problems := target_class_problems(target_classes, classes):
        raise all_at_once("target classes", problems)
    shares = np.array([target_classes.get(name, 0.0) for name in classes])
    return shares / shares.sum()


def total_variation(first: Vector, second: Vector) -> Vector:
    """Half the sum of absolute differences over the last axis, in [0, 1]."""
    return np.abs(first - second).sum(axis=-1) / 2


def _between(low: float, high: float) -> str:
    return f"between {low:.0%} and {high:.0%}"


def _listed(names: Sequence[str], last: str) -> str:
    """`a, b and c`, or the first few and how many more."""
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[:MOST_NAMED])} {last} {len(names) - MOST_NAMED} others"
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
