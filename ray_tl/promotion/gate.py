"""May this version be served? The decision is a value; whoever asked acts on it."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-3
STRAYS_OF_STEPS = 0.01


class Verdict(StrEnum):
    ACCEPT = "accept"
    REFUSE = "refuse"


@dataclass(frozen=True)
class PromotionDecision:
    """A verdict, and why, in sentences for a person."""

    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return self.verdict is Verdict.ACCEPT


def check_reproduces(
    bundle_probabilities: NDArray[np.floating],
    recorded_probabilities: NDArray[np.floating],
    tolerance: float = TOLERANCE,
    strays: float = 0.0,
) -> PromotionDecision:
    """Whether a reloaded bundle says of the target what its trial had said.

    Args:
        bundle_probabilities: Softmax [M, C] of the bundle as it was read back.
        recorded_probabilities: Softmax [M, C] that the study recorded for the trial.
        tolerance: Largest difference of one probability; batches of another size, and other processors, need some.
        strays: Share of rows that may differ by more, in [0, 1): with a head of steps (trees, neighbours), the last
            bit of a feature can decide on which side of a step a row falls.
    """
    shapes = bundle_probabilities.shape, recorded_probabilities.shape
    if shapes[0] != shapes[1] or not bundle_probabilities.size:
        return _refuse(f"the bundle gives probabilities {list(shapes[0])}, the trial recorded {list(shapes[1])}.")
    if not np.isfinite(bundle_probabilities).all():
        return _refuse("the bundle gives probabilities that are not finite.")
    difference = np.abs(bundle_probabilities - recorded_probabilities).max(axis=1)
    beyond = int((~(difference <= tolerance)).sum())  # what is not a number is beyond, too
    if beyond == 0:
        return PromotionDecision(Verdict.ACCEPT, (f"largest difference {difference.max():.2g} <= {tolerance:g}.",))
    if beyond <= strays * len(difference):
        allowed = f"{strays:.0%} of {len(difference)} may"
        return PromotionDecision(Verdict.ACCEPT, (f"{beyond} rows differ by more than {tolerance:g}, {allowed}.",))
    return _refuse(_how_far(difference, bundle_probabilities, recorded_probabilities, tolerance))


def _refuse(reason: str) -> PromotionDecision:
    return PromotionDecision(Verdict.REFUSE, (f"The bundle does not reproduce its trial: {reason}",))


def _how_far(
    difference: NDArray[np.floating],
    bundle: NDArray[np.floating],
    recorded: NDArray[np.floating],
    tolerance: float,
) -> str:
    changed = int((bundle.argmax(1) != recorded.argmax(1)).sum())
    return (
        f"probabilities differ by up to {difference.max():.2g} > {tolerance:g} (row {int(difference.argmax())}); "
        f"{changed} of {len(bundle)} predictions change class."
    )
