"""Which finished trial wins, without target labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_tl.selection.ensemble import agreements
from ray_tl.selection.guards import source_loss
from ray_tl.study.records import TrialRecord
from ray_tl.validation.objective import collapse


@dataclass(frozen=True)
class Candidate:
    """A trial in the pool.

    Attributes:
        rejected: Why a guard keeps it from winning; `None` if none does.
        agreement: With what all sound candidates predict together, in [0, 1]; `None` where the objective decides.
    """

    trial: TrialRecord
    objective: float
    rejected: str | None
    agreement: float | None = None

    @property
    def merit(self) -> float:
        """By which candidates are ordered, the highest first."""
        return self.objective if self.agreement is None else self.agreement


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


def choose(
    trials: Sequence[TrialRecord],
    source_histogram: Sequence[float],
    predictions: Callable[[int], NDArray[np.floating]] | None = None,
) -> Choice | None:
    """Order all trials that ran to full fidelity; `None` if none did.

    Source-only is always in the pool and never rejected: it is what remains when every other trial is.

    Args:
        trials: Of the study, in any state.
        source_histogram: Share of each class among the source labels, [C].
        predictions: Softmax outputs on the target by number of the trial, [M, C], for a study whose objective rests on
            confidence: the sound candidates then vote, and who agrees most with the outcome wins. `None` for one whose
            objective can be trusted.
    """
    finished = [trial for trial in trials if trial.at_full_fidelity and trial.last is not None]
    baseline = next((trial for trial in finished if trial.is_baseline), None)
    pool = [_candidate(trial, baseline, source_histogram) for trial in finished]
    if predictions is not None:
        pool = _voting(pool, predictions)
    pool.sort(key=lambda candidate: (candidate.rejected is not None, -candidate.merit, candidate.trial.number))
    return Choice(tuple(pool), _reason(pool, baseline)) if pool else None


def _voting(pool: Sequence[Candidate], predictions: Callable[[int], NDArray[np.floating]]) -> list[Candidate]:
    sound = {item.trial.number: predictions(item.trial.number) for item in pool if item.rejected is None}
    agreed = agreements(sound) if sound else {}
    return [replace(item, agreement=agreed.get(item.trial.number, 0.0)) for item in pool]


def _candidate(trial: TrialRecord, baseline: TrialRecord | None, source_histogram: Sequence[float]) -> Candidate:
    last = trial.last
    assert last is not None
    if trial.is_baseline:
        return Candidate(trial, last.objective, None)
    rejected = collapse(last.histogram, source_histogram)
    if baseline is not None and baseline.last is not None and rejected is None:
        rejected = source_loss(last.scores["source_accuracy"], baseline.last.scores["source_accuracy"])
    return Candidate(trial, last.objective, rejected)


def _reason(pool: Sequence[Candidate], baseline: TrialRecord | None) -> str:
    best = pool[0]
    rejected = sum(candidate.rejected is not None for candidate in pool)
    if best.agreement is not None and best.rejected is None:
        sound = len(pool) - rejected
        return (
            f"agrees most ({best.agreement:.1%}) with the vote of {sound} trials at full fidelity, because confidence "
            f"alone can't be trusted; guards rejected {rejected}."
        )
    if best.trial.is_baseline:
        return "no trial that passes the guards scores above source-only."
    if best.rejected is not None:
        return f"best objective {best.objective:.3f}, though {best.rejected}: the guards reject every trial."
    over = f", source-only {baseline.last.objective:.3f}" if baseline is not None and baseline.last else ""
    return (
        f"best objective {best.objective:.3f} of {len(pool)} trials at full fidelity{over}; guards rejected {rejected}."
    )
