"""The rule that is used unless another is named."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ray_tl.search_space.file import NEEDED_VALIDATORS as NEEDED
from ray_tl.selection.agreement import Agreements, agreements
from ray_tl.selection.choice import Candidate, Choice, EvidenceOf, Verdict
from ray_tl.selection.families import family_of
from ray_tl.selection.guards import no_better_on_source
from ray_tl.selection.margins import Margin, margins, structure_margins
from ray_tl.selection.objective import objective
from ray_tl.selection.pool import baseline_of, collapsed, guarded, in_order, reason_of, source_accuracy
from ray_tl.selection.reference_space import ReferenceSpace, reference_spaces
from ray_tl.selection.rule import SELECTION_RULES, Scores, SelectionContext
from ray_tl.study.records import TrialRecord
from ray_tl.validation import SourceEvidence, TargetEvidence, score_all
from ray_tl.validation.thresholds import expected_accuracy

SMALL_SHIFT = 0.1
CANNOT_TELL = (
    "source-only stays: neighbours hardly share their label even in the source, so they can't tell what is better on "
    "the target, and no trial is better on the source beyond chance with the target nearby."
)
NONE = Margin(0.0, 0.0, 0.0, 0.0, is_beyond_chance=False)


@SELECTION_RULES.register("agreement")
class ByAgreement:
    """Predictions are held against neighbours in features that nothing of the target shaped, and the other trials.

    The merit of a trial is the mean of its standard scores by structure and by names: see
    `ray_tl.selection.agreement`. What replaces source-only must be ahead of it beyond the noise of resampled target
    examples and of the other trials that happen to be in the pool, one-sided at 5 %, and no less by names: see
    `ray_tl.selection.margins`.

    Where the features of source-only can't be trusted, the objective decides, if it holds predictions against a space
    that can. If it rests on confidence alone, nothing tells what is better on the target, and source-only stays. Only
    if it is expected to lose at most `SMALL_SHIFT` of its accuracy there, what is better on the source beyond chance
    replaces it: a higher accuracy carries over to a domain nearby (Miller et al., "Accuracy on the Line", 2021,
    https://arxiv.org/abs/2107.04649).

    Args:
        context: Of the study.
    """

    def __init__(self, context: SelectionContext) -> None:
        self._context = context
        self._validators = tuple(dict.fromkeys((*NEEDED, *context.validators)))

    def observe(self, source: SourceEvidence, target: TargetEvidence) -> Scores:
        return score_all(self._validators, source, replace(target, shares=self._context.target_shares))

    def objective(self, scores: Mapping[str, float], histogram: Sequence[float]) -> float:
        return objective(scores, histogram, self._context)

    def choose(self, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Choice | None:
        pool = guarded(trials, self._context.target_shares)
        if not pool:
            return None
        baseline = baseline_of(trials)
        found = _agreements(pool, baseline, evidence, len(self._context.classes))
        if found is None:
            return _by_objective(pool, baseline, evidence, self._context)
        if baseline is None or baseline.number not in found.numbers:
            return _by_agreement(pool, found)
        return _by_margin(pool, margins(found, baseline.number))

    def compare(
        self, trials: Sequence[TrialRecord], evidence: EvidenceOf, old: TrialRecord, new: TrialRecord
    ) -> Verdict:
        """Worse is what has collapsed, or on which neighbours agree less, beyond chance."""
        if (reason := collapsed(old, new, self._context.target_shares)) is not None:
            return Verdict(True, reason)
        pool = guarded(trials, self._context.target_shares)
        found = _agreements(pool, baseline_of(trials), evidence, len(self._context.classes), new)
        if found is None or old.number not in found.numbers:
            return _by_objectives(old, new)
        margin = structure_margins(found, old.number)[new.number]
        return Verdict(margin.is_behind, f"neighbours agree {_kappas(margin)} than on trial {old.number}")


def _agreements(
    pool: Sequence[Candidate],
    baseline: TrialRecord | None,
    evidence: EvidenceOf,
    num_classes: int,
    refit: TrialRecord | None = None,
) -> Agreements | None:
    """Of those that no guard rejects: the others are neither measured nor count.

    A refit is measured where its trial is: how far its own space can be trusted, nothing held out would tell.
    """
    outputs = {item.trial.number: evidence(item.trial.number) for item in pool if item.rejected is None}
    families = {item.trial.number: family_of(item.trial.config) for item in pool}
    left = {number: each.final for number, each in outputs.items() if each.final is not None}
    spaces = reference_spaces(left, None if baseline is None else baseline.number, num_classes)
    target = {number: each.target for number, each in outputs.items()}
    if refit is not None:
        target[refit.number], families[refit.number] = evidence(refit.number).target, family_of(refit.config)
        spaces = [_shared(space, refit) for space in spaces]
    return agreements(target, families, spaces, num_classes)


def _shared(space: ReferenceSpace, refit: TrialRecord) -> ReferenceSpace:
    """A refit owns the spaces that its trial owns."""
    return replace(space, owners=space.owners | {refit.number}) if refit.refit_of in space.owners else space


def _by_margin(pool: Sequence[Candidate], found: Mapping[int, Margin]) -> Choice:
    """Those that are better than source-only beyond chance first, then source-only, then the others."""
    of = {item.trial.number: found.get(item.trial.number, NONE) for item in pool}

    def place(item: Candidate) -> tuple[bool, bool, bool, float, int]:
        margin = of[item.trial.number]
        stays_behind = not item.trial.is_baseline and not margin.is_beyond_chance
        return item.rejected is not None, stays_behind, item.trial.is_baseline, -margin.merit, item.trial.number

    order = sorted((replace(item, merit=of[item.trial.number].merit) for item in pool), key=place)
    return Choice(tuple(order), _margin_reason(order, of))


def _margin_reason(order: Sequence[Candidate], found: Mapping[int, Margin]) -> str:
    first, rejected = order[0], sum(item.rejected is not None for item in order)
    rest = f"of {len(order)} trials at full fidelity; guards rejected {rejected}"
    if not first.trial.is_baseline:
        margin = found[first.trial.number]
        return (
            f"its predictions agree best with neighbours and with the other trials: {margin.merit:.2f} standard "
            f"deviations above their average, source-only {margin.merit - margin.value:.2f} (ahead by "
            f"{_interval(margin)}), {rest}."
        )
    others = [item for item in order[1:] if item.rejected is None]
    if not others:
        return f"source-only: no other trial passes the guards, {rest}."
    best = max(others, key=lambda item: item.merit)
    return (
        "source-only stays: no trial agrees better with neighbours and with the other trials beyond chance, and with "
        "the latter at least as often as source-only does (best is "
        f"trial {best.trial.number}, ahead by {_interval(found[best.trial.number])}), {rest}."
    )


def _interval(margin: Margin) -> str:
    return f"{margin.value:.2f}, 90 % interval {margin.low:.2f} to {margin.high:.2f}"


def _by_objectives(old: TrialRecord, new: TrialRecord) -> Verdict:
    assert old.last is not None
    assert new.last is not None
    before, now = old.last.objective, new.last.objective
    return Verdict(now < before, f"objective {now:.3f}, that of trial {old.number} {before:.3f}")


def _kappas(margin: Margin) -> str:
    way = "less" if margin.value < 0 else "more"
    interval = f"90 % interval of the difference {margin.low:.3f} to {margin.high:.3f}"
    return f"by {abs(margin.value):.3f} {way} (Cohen's kappa, {interval})"


def _by_agreement(pool: Sequence[Candidate], found: Agreements) -> Choice:
    """Without source-only nothing has to be replaced."""
    merits = dict(zip(found.numbers, found.merits()[0].tolist(), strict=True))
    order = in_order([replace(item, merit=merits.get(item.trial.number, 0.0)) for item in pool])
    return Choice(
        order, f"agrees best with neighbours and with the other trials, of {len(order)}; no source-only ended."
    )


def _by_objective(
    pool: Sequence[Candidate], baseline: TrialRecord | None, evidence: EvidenceOf, context: SelectionContext
) -> Choice:
    if not context.has_judge and baseline is not None:
        outputs, accuracy = evidence(baseline.number), source_accuracy(baseline)
        lost = accuracy - expected_accuracy(outputs.source_holdout, accuracy, outputs.target)
        num_examples = len(outputs.source_holdout)
        order = in_order([_if_better(item, baseline, num_examples, lost <= SMALL_SHIFT) for item in pool])
        if order[0].trial.is_baseline:
            return Choice(order, CANNOT_TELL)
        return Choice(order, reason_of(order, "objective"))
    order = in_order(pool)
    return Choice(order, reason_of(order, "objective"))


def _if_better(item: Candidate, baseline: TrialRecord, num_examples: int, is_near: bool) -> Candidate:
    if item.trial.is_baseline or item.rejected is not None:
        return item
    if not is_near:
        return replace(item, rejected="nothing tells whether it is better than source-only on a target so far away")
    rejected = no_better_on_source(source_accuracy(item.trial), source_accuracy(baseline), num_examples)
    return replace(item, rejected=rejected)
