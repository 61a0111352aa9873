"""Rules that take validators at their word."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ray_tl.errors import InvalidInput
from ray_tl.search_space.file import JUDGE
from ray_tl.search_space.file import NEEDED_VALIDATORS as NEEDED
from ray_tl.selection.choice import Candidate, Choice, EvidenceOf, TrialEvidence
from ray_tl.selection.objective import objective
from ray_tl.selection.pool import guarded, in_order, reason_of
from ray_tl.selection.rule import SELECTION_RULES, Scores, SelectionContext
from ray_tl.study.records import TrialRecord
from ray_tl.validation import VALIDATORS, PoolEvidence, SourceEvidence, TargetEvidence, score_all


@SELECTION_RULES.register("validators")
class ByValidators:
    """The weighted sum of validators: of each epoch for the search, of the end for the choice.

    Each is taken so that higher is better, and on its own scale. Guards hold as with any rule, and source-only has no
    advantage. Validators that look at the end of a trial, or at all trials together, count for the choice alone; if
    there are no others, the search maximises what it does by default.

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
            return objective(scores, histogram, self._context.target_shares, self._context.num_target)
        return self._sum({name: scores[name] for name in self._of_epochs})

    def choose(self, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Choice | None:
        pool = guarded(trials, self._context.target_shares)
        if not pool:
            return None
        outputs = {item.trial.number: evidence(item.trial.number) for item in pool}
        together = pooled([outputs[item.trial.number] for item in pool if item.rejected is None])
        order = in_order([self._with_merit(item, outputs[item.trial.number], together) for item in pool])
        return Choice(order, reason_of(order, f"merit by {', '.join(self._weights)}"))

    def _with_merit(self, item: Candidate, outputs: TrialEvidence, together: PoolEvidence | None) -> Candidate:
        assert item.trial.last is not None
        scores = dict(item.trial.last.scores)
        missing = [name for name in self._weights if name not in scores]
        if missing and outputs.final is not None:
            source, target = outputs.final.source(outputs.source_holdout), outputs.final.target(outputs.target)
            target = replace(target, shares=self._context.target_shares)
            scores |= score_all(missing, source, target, together, skip_unavailable=True)
        if absent := [name for name in self._weights if name not in scores]:
            return replace(item, rejected=item.rejected or f"{', '.join(absent)} can't be computed of what it left")
        return replace(item, merit=self._sum(scores))

    def _sum(self, scores: Mapping[str, float]) -> float:
        return sum(
            weight * (scores[name] if VALIDATORS.create(name, {}).higher_is_better else -scores[name])
            for name, weight in self._weights.items()
            if name in scores
        )


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
