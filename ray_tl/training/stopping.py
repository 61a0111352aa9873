"""When a trial has nothing more to learn, by label-free scores alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry


class EarlyStopping(Protocol):
    """Whether a trial ends before full fidelity.

    Attributes:
        keeps_best: Whether the trial ends as its best epoch instead of its last one.
    """

    keeps_best: bool

    def stops(self, history: Sequence[float]) -> bool:
        """Whether to end after these epochs.

        Args:
            history: Label-free objective of each finished epoch, higher is better.
        """
        ...


EARLY_STOPPING: Registry[EarlyStopping] = Registry("early stopping")


@EARLY_STOPPING.register("never")
class Never:
    """To the last epoch, and as it is then."""

    keeps_best = False

    def stops(self, history: Sequence[float]) -> bool:
        return False


@EARLY_STOPPING.register("patience", ranges={"epochs": {"int": [2, 5]}})
@dataclass(frozen=True, kw_only=True)
class Patience:
    """After so many epochs without improvement of the label-free objective; the trial is then its best epoch.

    Prechelt, "Early Stopping - But When?", 1998, https://doi.org/10.1007/3-540-49430-8_3, criterion UP. It ends as its
    best epoch too where it runs to the last one. A trial that has stopped is complete: it reports its best epoch as
    that of full fidelity, can be champion, and is never measured at rungs that it did not reach.

    Attributes:
        epochs: Borne without improvement, >= 1.
        min_improvement: A smaller one is none; the objective is in [0, 1], less 1 if predictions have collapsed.
    """

    epochs: int = 3
    min_improvement: float = 0.0

    keeps_best = True

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InvalidInput(f"patience.epochs={self.epochs} must be 1 or more.")
        if not 0 <= self.min_improvement < math.inf:
            raise InvalidInput(f"patience.min_improvement={self.min_improvement} must be 0 or more.")

    def stops(self, history: Sequence[float]) -> bool:
        best, waited = -math.inf, 0
        for value in history:
            best, waited = (value, 0) if value > best + self.min_improvement else (best, waited + 1)
        return waited >= self.epochs
