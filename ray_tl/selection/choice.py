"""What a choice among trials is: candidates in order of preference, each with its reasons."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.study.records import TrialRecord
from ray_tl.validation.evidence import FinalEvidence


@dataclass(frozen=True)
class LabelledPredictions:
    """On target examples whose labels users gave for the choice, and on which no trial was trained.

    Attributes:
        probabilities: Softmax, [N, C].
        labels: True classes, [N].
    """

    probabilities: NDArray[np.floating]
    labels: NDArray[np.int64]

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether the likeliest class is the true one, [N]."""
        right: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.labels
        return right

    def in_words(self) -> str:
        """How many there are: "3 labelled target examples a class, 30 in all,"."""
        counts = np.bincount(self.labels)
        counts = counts[counts > 0]
        each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        return f"{each} labelled target examples a class, {len(self.labels)} in all,"


@dataclass(frozen=True)
class TrialEvidence:
    """What a trial left at its end.

    Attributes:
        source_holdout: Softmax on held-out source examples, [N, C].
        target: Softmax, [M, C].
        final: Features, mixtures and head; `None` of a trial of an older study.
        labelled: Predictions on labelled target examples; `None` where there are none for the choice.
    """

    source_holdout: NDArray[np.floating]
    target: NDArray[np.floating]
    final: FinalEvidence | None = None
    labelled: LabelledPredictions | None = None


EvidenceOf = Callable[[int], TrialEvidence]
"""By number of a trial at full fidelity."""


@dataclass(frozen=True)
class Candidate:
    """A trial in the pool.

    Attributes:
        merit: By which candidates are ordered, the highest first.
        rejected: Why a guard keeps it from winning; `None` if none does.
    """

    trial: TrialRecord
    objective: float
    merit: float
    rejected: str | None


@dataclass(frozen=True)
class Verdict:
    """Whether a network that was trained on all of the source is worse than the trial that it is a refit of."""

    is_worse: bool
    reason: str


@dataclass(frozen=True)
class Choice:
    """Candidates in order of preference: those that no guard rejects first, the one of most merit first.

    Attributes:
        reason: Why the first one is first.
    """

    candidates: tuple[Candidate, ...]
    reason: str

    @property
    def champion(self) -> TrialRecord:
        return self.candidates[0].trial

    @property
    def merits(self) -> dict[int, float]:
        """By number of the trial, in order of preference, of those that no guard rejects."""
        return {item.trial.number: item.merit for item in self.candidates if item.rejected is None}
