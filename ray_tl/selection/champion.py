"""Which finished trial wins, without target labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_tl.selection.ensemble import agreements
from ray_tl.selection.guards import is_higher, no_better_on_source, source_loss
from ray_tl.selection.shift import SMALL_SHIFT, expected_accuracy
from ray_tl.study.records import TrialRecord
from ray_tl.validation.objective import collapse

Evidence = Callable[[int], Mapping[str, NDArray[np.floating]]]


@dataclass(frozen=True)
class Candidate:
    """A trial in the pool.

    Attributes:
        merit: By which candidates are ordered, the highest first: the objective, unless that can't be trusted.
        rejected: Why a guard keeps it from winning; `None` if none does.
    """

    trial: TrialRecord
    objective: float
    merit: float
    rejected: str | None


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
    trials: Sequence[TrialRecord], source_histogram: Sequence[float], evidence: Evidence | None = None
) -> Choice | None:
    """Order all trials that ran to full fidelity; `None` if none did.

    Source-only is always in the pool and never rejected: it is what remains when every other trial is. By what the
    others are measured depends on what can be trusted:

    - Where the objective rests on more than confidence, it decides.
    - Else, where source-only is expected to lose at most `SMALL_SHIFT` of its accuracy on the target, there is little
      to win and as much to lose as anywhere: only what is better on the source beyond chance replaces source-only. A
      higher accuracy carries over to a domain nearby (Miller et al., "Accuracy on the Line", 2021,
      https://arxiv.org/abs/2107.04649). Those that the source can't tell from the best one vote.
    - Else all sound candidates vote.

    Who agrees most with the outcome of a vote wins.

    Args:
        trials: Of the study, in any state.
        source_histogram: Share of each class among the source labels, [C].
        evidence: By number of the trial its softmax outputs on `source_holdout`, [N, C], and `target`, [M, C], for a
            study whose objective rests on confidence. `None` for one whose objective can be trusted.
    """
    finished = [trial for trial in trials if trial.at_full_fidelity and trial.last is not None]
    baseline = next((trial for trial in finished if trial.is_baseline), None)
    pool = [_candidate(trial, baseline, source_histogram) for trial in finished]
    if not pool:
        return None
    if evidence is None:
        return _ordered(pool, lambda order: _by_objective(order, baseline))
    expected = None if baseline is None else _expected(baseline, evidence)
    if baseline is None or expected is None or _source_accuracy(baseline) - expected > SMALL_SHIFT:
        return _ordered(_voting(pool, evidence), lambda order: _by_vote(order, baseline, expected))
    num_examples = len(evidence(baseline.number)["source_holdout"])
    pool = _on_source(pool, baseline, num_examples, evidence)
    return _ordered(pool, lambda order: _by_source(order, _source_accuracy(baseline), expected))


def _ordered(pool: Sequence[Candidate], reason: Callable[[Sequence[Candidate]], str]) -> Choice:
    order = sorted(pool, key=lambda item: (item.rejected is not None, -item.merit, item.trial.number))
    if order[0].rejected is not None:
        return Choice(tuple(order), f"best of all, though {order[0].rejected}: the guards reject every trial.")
    return Choice(tuple(order), reason(order))


def _candidate(trial: TrialRecord, baseline: TrialRecord | None, source_histogram: Sequence[float]) -> Candidate:
    last = trial.last
    assert last is not None
    rejected = None
    if not trial.is_baseline:
        rejected = collapse(last.histogram, source_histogram)
        if baseline is not None and rejected is None:
            rejected = source_loss(_source_accuracy(trial), _source_accuracy(baseline))
    return Candidate(trial, last.objective, last.objective, rejected)


def _voting(pool: Sequence[Candidate], evidence: Evidence) -> list[Candidate]:
    numbers = [item.trial.number for item in pool if item.rejected is None]
    agreed = agreements({number: evidence(number)["target"] for number in numbers}) if numbers else {}
    return [replace(item, merit=agreed.get(item.trial.number, 0.0)) for item in pool]


def _on_source(
    pool: Sequence[Candidate], baseline: TrialRecord, num_examples: int, evidence: Evidence
) -> list[Candidate]:
    """Who is no worse on the source than the best one beyond chance, by vote; then the others by source accuracy."""
    pool = [_if_better(item, baseline, num_examples) for item in pool]
    best = max(_source_accuracy(item.trial) for item in pool if item.rejected is None)
    peers = [item for item in pool if not is_higher(best, _source_accuracy(item.trial), num_examples)]
    voted = {item.trial.number: item for item in _voting(peers, evidence)}
    return [voted.get(item.trial.number, replace(item, merit=_source_accuracy(item.trial) - 1)) for item in pool]


def _if_better(item: Candidate, baseline: TrialRecord, num_examples: int) -> Candidate:
    if item.trial.is_baseline or item.rejected is not None:
        return item
    rejected = no_better_on_source(_source_accuracy(item.trial), _source_accuracy(baseline), num_examples)
    return replace(item, rejected=rejected)


def _by_objective(order: Sequence[Candidate], baseline: TrialRecord | None) -> str:
    best = order[0]
    if best.trial.is_baseline:
        return "no trial that passes the guards scores above source-only."
    over = f", source-only {baseline.last.objective:.3f}" if baseline is not None and baseline.last else ""
    trials = f"{len(order)} trials at full fidelity"
    return f"best objective {best.objective:.3f} of {trials}{over}; guards rejected {_rejected(order)}."


def _by_vote(order: Sequence[Candidate], baseline: TrialRecord | None, expected: float | None) -> str:
    sound = len(order) - _rejected(order)
    loss = ""
    if baseline is not None and expected is not None:
        loss = f" and source-only is expected to fall from {_source_accuracy(baseline):.1%} to {expected:.1%}"
    return (
        f"agrees most ({order[0].merit:.1%}) with the vote of {sound} trials at full fidelity, because confidence "
        f"alone can't be trusted{loss}; guards rejected {_rejected(order)}."
    )


def _by_source(order: Sequence[Candidate], accuracy: float, expected: float) -> str:
    little = f"source-only is expected to keep {expected:.1%} of its {accuracy:.1%} on the target"
    if order[0].trial.is_baseline:
        return f"{little}, confidence alone can't be trusted, and no trial is better on the source beyond chance."
    best = max(_source_accuracy(item.trial) for item in order if item.rejected is None)
    peers = sum(item.rejected is None and item.merit >= 0 for item in order)
    return (
        f"agrees most ({order[0].merit:.1%}) with the vote of {peers} that are better on the source than source-only "
        f"beyond chance, up to {best:.1%}, where {little}."
    )


def _expected(baseline: TrialRecord, evidence: Evidence) -> float:
    outputs = evidence(baseline.number)
    return expected_accuracy(outputs["source_holdout"], _source_accuracy(baseline), outputs["target"])


def _source_accuracy(trial: TrialRecord) -> float:
    assert trial.last is not None
    return trial.last.scores["source_accuracy"]


def _rejected(pool: Sequence[Candidate]) -> int:
    return sum(item.rejected is not None for item in pool)
