"""Is a trial better than source-only by more than the noise of the scores?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_tl.selection.agreement import Agreements

ONE_SIDED_5_PERCENT = 1.645  # quantile of the normal distribution


@dataclass(frozen=True)
class Margin:
    """How much better a trial agrees with the others than another trial does.

    Attributes:
        merit: Of the trial: mean of its two standard scores among the trials, unless it says otherwise.
        value: That less the merit of the other.
        low: The end of its 90 % interval, as `high`.
        is_beyond_chance: Whether it is ahead by more than the noise, one-sided at 5 %. Nothing is corrected for the
            number of trials: of many that are as good as the other, the luckiest may pass.
        is_behind: Whether it is behind by more than that.
    """

    merit: float
    value: float
    low: float
    high: float
    is_beyond_chance: bool
    is_behind: bool = False


def margins(found: Agreements, baseline: int) -> dict[int, Margin]:
    """The margin of every trial over one, by paired bootstrap over target examples and what trials are held against.

    See `ray_tl.selection.agreement.agreements`.

    Structure and names must not contradict each other: a trial is ahead beyond chance only if the other trials agree
    with it at least as often as with the one that it is compared with.

    Args:
        found: Of all trials.
        baseline: Number of the trial that the others are compared with.
    """
    names = found.names[0] - found.names[0, found.numbers.index(baseline)]
    together = _margins(found.merits(), found.numbers, baseline)
    return {
        number: replace(margin, is_beyond_chance=margin.is_beyond_chance and bool(names[place] >= 0))
        for place, (number, margin) in enumerate(together.items())
    }


def structure_margins(found: Agreements, baseline: int) -> dict[int, Margin]:
    """The same by the agreement of neighbours alone, in Cohen's kappa.

    Trials agree by names more with one that saw the examples that they saw than with one that saw more: that would tell
    on what a network was trained, and not how good it is.
    """
    return _margins(found.structure, found.numbers, baseline)


def _margins(merits: NDArray[np.float64], numbers: Sequence[int], baseline: int) -> dict[int, Margin]:
    differences = merits - merits[:, [numbers.index(baseline)]]
    noise = differences[1:].std(axis=0)
    return {
        number: Margin(
            merit=float(merits[0, place]),
            value=float(differences[0, place]),
            low=float(np.quantile(differences[1:, place], 0.05)),
            high=float(np.quantile(differences[1:, place], 0.95)),
            is_beyond_chance=bool(differences[0, place] > ONE_SIDED_5_PERCENT * noise[place]),
            is_behind=bool(-differences[0, place] > ONE_SIDED_5_PERCENT * noise[place]),
        )
        for place, number in enumerate(numbers)
    }
