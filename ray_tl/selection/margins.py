"""Is a trial better than source-only by more than the noise of the scores?"""

from dataclasses import dataclass

import numpy as np

from ray_tl.selection.agreement import Agreements

LEVEL = 0.95  # of the resamples must be in favour


@dataclass(frozen=True)
class Margin:
    """How much better a trial agrees with the others than another trial does.

    Attributes:
        merit: Of the trial: mean of its two standard scores among the trials.
        value: That less the merit of the other.
        low: The end of its 90 % interval, as `high`.
        certainty: Share of the resamples in which the trial is ahead.
    """

    merit: float
    value: float
    low: float
    high: float
    certainty: float

    @property
    def is_beyond_chance(self) -> bool:
        return self.certainty >= LEVEL


def margins(found: Agreements, baseline: int) -> dict[int, Margin]:
    """The margin of every trial over one, by paired bootstrap over target examples.

    Args:
        found: Of all trials.
        baseline: Number of the trial that the others are compared with.
    """
    merits = found.merits()
    differences = merits - merits[:, [found.numbers.index(baseline)]]
    return {
        number: Margin(
            merit=float(merits[0, place]),
            value=float(differences[0, place]),
            low=float(np.quantile(differences[1:, place], 0.05)),
            high=float(np.quantile(differences[1:, place], 0.95)),
            certainty=float((differences[1:, place] > 0).mean()),
        )
        for place, number in enumerate(found.numbers)
    }
