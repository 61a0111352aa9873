"""The pool of a choice: trials at full fidelity, and what the guards say of each."""

from collections.abc import Sequence

from ray_tl.selection.choice import Candidate
from ray_tl.selection.guards import collapse, source_loss
from ray_tl.study.records import TrialRecord


def baseline_of(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Source-only, if it ran to full fidelity."""
    return next((trial for trial in trials if trial.is_baseline and trial.at_full_fidelity), None)


def collapsed(old: TrialRecord, new: TrialRecord, shares: Sequence[float] | None) -> str | None:
    """Why the predictions of a refit have collapsed where those of its trial had not; `None` if they have not."""
    assert old.last is not None
    assert new.last is not None
    return None if collapse(old.last.histogram, shares) else collapse(new.last.histogram, shares)


def guarded(trials: Sequence[TrialRecord], shares: Sequence[float] | None) -> list[Candidate]:
    """Trials at full fidelity, of the merit of their objective; source-only is never rejected, a refit no member.

    Args:
        trials: Of the study, in any state.
        shares: Share of each class that is expected of the target, [C]; `None` where it is not known.
    """
    baseline = baseline_of(trials)
    return [
        _candidate(trial, baseline, shares) for trial in trials if trial.at_full_fidelity and trial.refit_of is None
    ]


def source_accuracy(trial: TrialRecord) -> float:
    """Of the end of a trial, on held-out examples."""
    assert trial.last is not None
    return trial.last.scores["source_accuracy"]


def in_order(pool: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no guard rejects first, then by merit; of equal ones the earlier trial."""
    return tuple(sorted(pool, key=lambda item: (item.rejected is not None, -item.merit, item.trial.number)))


def reason_of(order: Sequence[Candidate], merit: str) -> str:
    """Why the first candidate is first, where merit is one number for each.

    Args:
        order: In order of preference.
        merit: What it is, in words.
    """
    best, rejected = order[0], sum(item.rejected is not None for item in order)
    if best.rejected is not None:
        return f"best of all, though {best.rejected}: the guards reject every trial."
    if best.trial.is_baseline:
        return f"source-only: no trial that passes the guards has a higher {merit}; guards rejected {rejected}."
    over = "".join(f", source-only's {item.merit:.3f}" for item in order if item.trial.is_baseline)
    return f"best {merit}, {best.merit:.3f}, of {len(order)} trials at full fidelity{over}; guards rejected {rejected}."


def _candidate(trial: TrialRecord, baseline: TrialRecord | None, shares: Sequence[float] | None) -> Candidate:
    last = trial.last
    assert last is not None
    rejected = None
    if not trial.is_baseline:
        rejected = collapse(last.histogram, shares)
        if baseline is not None and rejected is None:
            rejected = source_loss(source_accuracy(trial), source_accuracy(baseline))
    return Candidate(trial, last.objective, last.objective, rejected)
