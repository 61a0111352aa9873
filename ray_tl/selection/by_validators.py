"""Rules that take validators at their word."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ray_tl.errors import InvalidInput
from ray_tl.search_space.file import JUDGE
from ray_tl.search_space.file import NEEDED_VALIDATORS as NEEDED
from ray_tl.selection.choice import Candidate, Choice, EvidenceOf, TrialEvidence, Verdict
from ray_tl.selection.objective import objective
from ray_tl.selection.pool import collapsed, guarded, in_order, reason_of
from ray_tl.selection.rule import SELECTION_RULES, Scores, SelectionContext
from ray_tl.study.records import TrialRecord
from ray_tl.validation import VALIDATORS, PoolEvidence, SourceEvidence, TargetEvidence, looks_at_source, score_all


@SELECTION_RULES.register("validators")
class ByValidators:
    """The weighted sum of validators: of each epoch for the search, of the end for the choice.

    Each is taken so that higher is better, and on its own scale. Guards hold as with any rule, and source-only has no
    advantage; where it can't be scored, it is last of those that no guard rejects. Validators that look at the end of a
    trial, or at all trials together, count for the choice alone; if there are no others, the search maximises what it
    does by default.

    Args:
        context: Of the study.
        names: Validators.
        weights: One for each, above 0; equal by default.

    Raises:
        InvalidInput: If a validator is unknown or lacks the space that it looks in, or the weights don't fit.
    """

    def __init__(self, context: SelectionContext, *, names: list[str], weights: list[float] | None = None) -> None:
        _check(names, weights, context.has_judge)
        self._context = context
        self._weights = dict(zip(names, weights or [1.0] * len(names), strict=True))
        self._of_epochs = [name for name in names if not VALIDATORS.create(name, {}).needs_end]
        self._validators = tuple(dict.fromkeys((*NEEDED, *self._of_epochs, *context.validators)))

    def observe(self, source: SourceEvidence, target: TargetEvidence) -> Scores:
        return score_all(self._validators, source, replace(target, shares=self._context.target_shares))

    def objective(self, scores: Mapping[str, float], histogram: Sequence[float]) -> float:
        if not self._of_epochs:
            return objective(scores, histogram, self._context)
        return self._sum({name: scores[name] for name in self._of_epochs})

    def choose(self, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Choice | None:
        pool = guarded(trials, self._context.target_shares)
        if not pool:
            return None
        outputs = {item.trial.number: evidence(item.trial.number) for item in pool}
        together = pooled([outputs[item.trial.number] for item in pool if item.rejected is None])
        found = [self._with_merit(item, outputs[item.trial.number], together) for item in pool]
        order = in_order(_with_source_only_last(found))
        return Choice(order, reason_of(order, f"merit by {', '.join(self._weights)}"))

    def _with_merit(self, item: Candidate, outputs: TrialEvidence, together: PoolEvidence | None) -> Candidate:
        scores = self._scores(item.trial, outputs, together)
        if absent := [name for name in self._weights if name not in scores]:
            return replace(item, rejected=item.rejected or f"{', '.join(absent)} can't be computed of what it left")
        return replace(item, merit=self._sum(scores))

    def compare(
        self, trials: Sequence[TrialRecord], evidence: EvidenceOf, old: TrialRecord, new: TrialRecord
    ) -> Verdict:
        """Worse is what the validators that look at the target alone score lower, or has collapsed."""
        if (reason := collapsed(old, new, self._context.target_shares)) is not None:
            return Verdict(True, reason)
        pool = [item for item in guarded(trials, self._context.target_shares) if item.rejected is None]
        together = pooled([evidence(item.trial.number) for item in pool])
        before, now = (self._scores(trial, evidence(trial.number), together) for trial in (old, new))
        shared = [name for name in self._weights if name in before and name in now and not looks_at_source(name)]
        if not shared:
            return Verdict(False, f"{', '.join(self._weights)} can't judge it without held-out examples")
        was, is_now = (self._sum({name: scores[name] for name in shared}) for scores in (before, now))
        return Verdict(is_now < was, f"merit by {', '.join(shared)} {is_now:.3f}, that of trial {old.number} {was:.3f}")

    def _scores(self, trial: TrialRecord, outputs: TrialEvidence, together: PoolEvidence | None) -> Scores:
        """What was recorded of the validators in question, and what can be computed of the rest."""
        assert trial.last is not None
        scores = dict(trial.last.scores)
        missing = [name for name in self._weights if name not in scores]
        if missing and outputs.final is not None:
            source, target = outputs.final.source(outputs.source_holdout), outputs.final.target(outputs.target)
            target = replace(target, shares=self._context.target_shares)
            scores |= score_all(missing, source, target, together, skip_unavailable=True)
        return scores

    def _sum(self, scores: Mapping[str, float]) -> float:
        return sum(
            weight * (scores[name] if VALIDATORS.create(name, {}).higher_is_better else -scores[name])
            for name, weight in self._weights.items()
            if name in scores
        )


def _with_source_only_last(found: Sequence[Candidate]) -> list[Candidate]:
    """Source-only is what stays if no other can win: where it can't be scored, it is behind those that can, not out."""
    least = min((item.merit for item in found if item.rejected is None), default=0.0)
    behind = math.nextafter(least, -math.inf)
    return [
        replace(item, rejected=None, merit=behind) if item.trial.is_baseline and item.rejected is not None else item
        for item in found
    ]


def pooled(outputs: Sequence[TrialEvidence]) -> PoolEvidence | None:
    """Mean softmax of trials on the target; `None` of none."""
    if not outputs:
        return None
    return PoolEvidence(sum(each.target for each in outputs) / len(outputs))  # type: ignore[arg-type]


def _check(names: Sequence[str], weights: Sequence[float] | None, has_judge: bool) -> None:
    if not names or len(set(names)) < len(names):
        raise InvalidInput(
            f"validators.names={names!r} must name at least one validator, and each once; see: ray-tl components "
            "validators"
        )
    for name in names:
        VALIDATORS.factory(name)
        if name in JUDGE and not has_judge:
            raise InvalidInput(
                f"validators.names={names!r} holds {name!r}, and this study has no neighbours that can be trusted, or "
                f"search.validators leaves them out; leave out {name!r}, or record it each epoch."
            )
    if weights is not None and (len(weights) != len(names) or not all(weight > 0 for weight in weights)):
        raise InvalidInput(f"validators.weights={weights!r} must be one number above 0 for each of {names}.")
