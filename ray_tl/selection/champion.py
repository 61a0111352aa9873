"""Which finished trial wins, without target labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from ray_tl.selection.guards import source_loss
from ray_tl.study.records import TrialRecord
from ray_tl.validation.objective import collapse


@dataclass(frozen=True)
class Candidate:
    """A trial in the pool.

    Attributes:
        rejected: Why a guard keeps it from winning; `None` if none does.
    """

    trial: TrialRecord
    objective: float
    rejected: str | None


@dataclass(frozen=True)
class Choice:
    """Candidates in order of preference: those that no guard rejects first, the best objective first.

    Attributes:
        reason: Why the first one is first.
    """

    candidates: tuple[Candidate, ...]
    reason: str

    @property
    def champion(self) -> TrialRecord:
        return self.candidates[0].trial


def choose(trials: Sequence[TrialRecord], source_histogram: Sequence[float]) -> Choice | None:
    """Order all trials that ran to full fidelity; `None` if none did.

    Source-only is always in the pool and never rejected: it is what remains when every other trial is.

    Args:
        trials: Of the study, in any state.
        source_histogram: Share of each class among the source labels, [C].
    """
    finished = [trial for trial in trials if trial.at_full_fidelity and trial.last is not None]
    baseline = next((trial for trial in finished if trial.is_baseline), None)
    pool = [_candidate(trial, baseline, source_histogram) for trial in finished]
    pool.sort(key=lambda candidate: (candidate.rejected is not None, -candidate.objective, candidate.trial.number))
    return Choice(tuple(pool), _reason(pool, baseline)) if pool else None


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
    if best.trial.is_baseline:
        return "no trial that passes the guards scores above source-only."
    if best.rejected is not None:
        return f"best objective {best.objective:.3f}, though {best.rejected}: the guards reject every trial."
    over = f", source-only {baseline.last.objective:.3f}" if baseline is not None and baseline.last else ""
    rejected = sum(candidate.rejected is not None for candidate in pool)
    return (
        f"best objective {best.objective:.3f} of {len(pool)} trials at full fidelity{over}; guards rejected {rejected}."
    )
