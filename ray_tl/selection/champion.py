"""Which finished trial wins, without target labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_tl.neighbours import LabelledSpace
from ray_tl.selection.cross_examination import cross_agreements
from ray_tl.selection.guards import no_better_on_source, source_loss
from ray_tl.selection.shift import SMALL_SHIFT, expected_accuracy
from ray_tl.study.records import TrialRecord
from ray_tl.validation.objective import collapse


@dataclass(frozen=True)
class TrialEvidence:
    """What a trial left at its end.

    Attributes:
        source_holdout: Softmax on held-out source examples, [N, C].
        target: Softmax, [M, C].
        space: Of its features, if it is known.
    """

    source_holdout: NDArray[np.floating]
    target: NDArray[np.floating]
    space: LabelledSpace | None = None


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


def choose(
    trials: Sequence[TrialRecord],
    source_histogram: Sequence[float],
    evidence: Callable[[int], TrialEvidence],
    *,
    has_judge: bool = True,
) -> Choice | None:
    """Order all trials that ran to full fidelity; `None` if none did.

    The merit of a trial is the mean of its source accuracy and of how far its predictions on the target agree between
    neighbours in the features of other trials, which it can't train; where too few of those can be trusted, it is the
    objective.

    Source-only is always in the pool and never rejected: it is what remains when every other trial is. Where the
    objective rests on confidence and source-only is expected to lose at most `SMALL_SHIFT` of its accuracy on the
    target, there is little to win and as much to lose as anywhere: only what is better on the source beyond chance
    replaces it. A higher accuracy carries over to a domain nearby (Miller et al., "Accuracy on the Line", 2021,
    https://arxiv.org/abs/2107.04649).

    Args:
        trials: Of the study, in any state.
        source_histogram: Share of each class among the source labels, [C].
        evidence: By number of a trial at full fidelity.
        has_judge: Whether the objective rests on more than confidence.
    """
    finished = [trial for trial in trials if trial.at_full_fidelity and trial.last is not None]
    baseline = next((trial for trial in finished if trial.is_baseline), None)
    pool = [_candidate(trial, baseline, source_histogram) for trial in finished]
    if not pool:
        return None
    crossed = _crossed(pool, evidence, len(source_histogram))
    pool = pool if crossed is None else crossed
    if not has_judge and baseline is not None:
        outputs = evidence(baseline.number)
        accuracy = _source_accuracy(baseline)
        expected = expected_accuracy(outputs.source_holdout, accuracy, outputs.target)
        if accuracy - expected <= SMALL_SHIFT:
            pool = [_if_better(item, baseline, len(outputs.source_holdout)) for item in pool]
    order = sorted(pool, key=lambda item: (item.rejected is not None, -item.merit, item.trial.number))
    return Choice(tuple(order), _reason(order, crossed is not None))


def _candidate(trial: TrialRecord, baseline: TrialRecord | None, source_histogram: Sequence[float]) -> Candidate:
    last = trial.last
    assert last is not None
    rejected = None
    if not trial.is_baseline:
        rejected = collapse(last.histogram, source_histogram)
        if baseline is not None and rejected is None:
            rejected = source_loss(_source_accuracy(trial), _source_accuracy(baseline))
    return Candidate(trial, last.objective, last.objective, rejected)


def _crossed(
    pool: Sequence[Candidate], evidence: Callable[[int], TrialEvidence], num_classes: int
) -> list[Candidate] | None:
    """With their merit in the features of others; those that are rejected neither count nor are measured."""
    classes, spaces = {}, {}
    for number in (item.trial.number for item in pool if item.rejected is None):
        found = evidence(number)
        classes[number] = found.target.argmax(axis=1)
        if found.space is not None:
            spaces[number] = found.space
    agreed = cross_agreements(classes, spaces, num_classes)
    if agreed is None:
        return None

    def merit(item: Candidate) -> float:
        number = item.trial.number
        return (_source_accuracy(item.trial) + agreed[number]) / 2 if number in agreed else item.merit

    return [replace(item, merit=merit(item)) for item in pool]


def _if_better(item: Candidate, baseline: TrialRecord, num_examples: int) -> Candidate:
    if item.trial.is_baseline or item.rejected is not None:
        return item
    rejected = no_better_on_source(_source_accuracy(item.trial), _source_accuracy(baseline), num_examples)
    return replace(item, rejected=rejected)


def _reason(order: Sequence[Candidate], is_crossed: bool) -> str:
    best, rejected = order[0], sum(item.rejected is not None for item in order)
    if best.rejected is not None:
        return f"best of all, though {best.rejected}: the guards reject every trial."
    if best.trial.is_baseline:
        return f"source-only: no trial that passes the guards has more merit; guards rejected {rejected}."
    kind = "objective"
    if is_crossed:
        kind = "mean of source accuracy and of agreement between neighbours in the features of other trials"
    over = "".join(f", source-only's {item.merit:.3f}" for item in order if item.trial.is_baseline)
    return f"best {kind}, {best.merit:.3f}, of {len(order)} trials at full fidelity{over}; guards rejected {rejected}."


def _source_accuracy(trial: TrialRecord) -> float:
    assert trial.last is not None
    return trial.last.scores["source_accuracy"]
