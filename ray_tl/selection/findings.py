"""What a pool of trials says of its target and of its champion, once the choice is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ray_tl.errors import Unavailable
from ray_tl.selection.choice import Choice, EvidenceOf, TrialEvidence
from ray_tl.selection.correction import UNCORRECTED, Correction, correction_of, with_correction
from ray_tl.selection.expected_accuracy import ExpectedAccuracy, expected_accuracy
from ray_tl.selection.families import family_of
from ray_tl.selection.pool import baseline_of
from ray_tl.selection.prior import PriorEstimate, stated_shares
from ray_tl.selection.prior.of_pool import STATED, prior_of_pool, stated_prior
from ray_tl.selection.rule import SelectionRule
from ray_tl.selection.study import rule_of
from ray_tl.study.records import StudySpec, TrialRecord

OFF = Correction(None, f"{UNCORRECTED}data.correct_predictions is never.")


@dataclass(frozen=True)
class Guided:
    """A choice, with the prior of the target that its guards measured against where that is known.

    Attributes:
        rule: That chose.
        prior: Stated, or estimated; `None` where the pool can't say.
    """

    choice: Choice
    rule: SelectionRule
    prior: PriorEstimate | None


@dataclass(frozen=True)
class Findings:
    """What no label of the target was read for.

    Attributes:
        expected: Accuracy of the champion on the target, as it is corrected; `None` where the pool says too little.
        not_expected: Why.
        prior: As `champion.json` keeps it; `None` where the pool can't say.
    """

    expected: ExpectedAccuracy | None
    not_expected: str
    prior: Mapping[str, object] | None

    def content(self) -> dict[str, object]:
        """As `champion.json` keeps it."""
        if self.expected is None:
            return {"expected": None, "not_expected": self.not_expected, "prior": self.prior}
        return {"expected": self.expected.summary(), "prior": self.prior}


def guided_choice(spec: StudySpec, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Guided | None:
    """The choice of the study's rule, whose guards know the prior of the target.

    What users state counts. An estimate does, where a shift is beyond chance: then the rule chooses once more.

    Returns:
        `None` if no trial ran to full fidelity.
    """
    rule = rule_of(spec)
    choice = rule.choose(trials, evidence)
    if choice is None:
        return None
    source = np.array(spec.source_histogram)
    stated = stated_shares(spec.data.options.target_classes, spec.classes, source)
    if stated is not None:
        return Guided(choice, rule, stated_prior(stated, source))
    prior = prior_of_pool(*_sound(choice, evidence), choice.merits, source)
    if prior is None or not prior.is_beyond_chance:
        return Guided(choice, rule, prior)
    rule = rule_of(spec, tuple(prior.shares.tolist()))
    again = rule.choose(trials, evidence)
    assert again is not None
    return Guided(again, rule, prior)


def findings_of(spec: StudySpec, found: Guided, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Findings:
    """What the trials that no guard rejects say of the one that was chosen.

    Args:
        spec: Of the study.
        found: Its first candidate is the champion.
        trials: Of the study.
        evidence: What each has left.
    """
    champion, prior = found.choice.champion, found.prior
    correction = _correction(spec.data.options.correct_predictions, found, trials, evidence)
    outputs, families = _sound(found.choice, evidence)
    if correction.logits is not None and champion.number in outputs:
        own = outputs[champion.number]
        outputs[champion.number] = replace(own, target=with_correction(own.target, correction.logits))
    kept = None if prior is None else _content(prior, correction, champion.number, spec.classes)
    baseline = baseline_of(trials)
    number = None if baseline is None else baseline.number
    try:
        expected = expected_accuracy(champion.number, outputs, families, number, len(spec.classes))
    except Unavailable as error:
        return Findings(None, str(error), kept)
    return Findings(expected, "", kept)


def _sound(choice: Choice, evidence: EvidenceOf) -> tuple[dict[int, TrialEvidence], dict[int, str]]:
    """Evidence and families of those that no guard rejects, by number."""
    trials = [item.trial for item in choice.candidates if item.rejected is None]
    return (
        {trial.number: evidence(trial.number) for trial in trials},
        {trial.number: family_of(trial.config) for trial in trials},
    )


def _correction(
    option: Literal["auto", "never"], found: Guided, trials: Sequence[TrialRecord], evidence: EvidenceOf
) -> Correction:
    if option == "never" or found.prior is None:
        return OFF
    return correction_of(found.prior, found.prior.method == STATED, found.rule.choose, found.choice, trials, evidence)


def _content(prior: PriorEstimate, correction: Correction, champion: int, classes: Sequence[str]) -> dict[str, object]:
    return {
        "shares": prior.shares.tolist(),
        "low": prior.low.tolist(),
        "high": prior.high.tolist(),
        "shift": prior.shift,
        "is_beyond_chance": prior.is_beyond_chance,
        "method": prior.method,
        "trial": champion,
        "correction": correction.logits and list(correction.logits),
        "words": [*_words(prior, classes), correction.reason],
    }


def _words(prior: PriorEstimate, classes: Sequence[str]) -> list[str]:
    """One or two lines."""
    if prior.method == STATED:
        return [f"the class shares of the target are stated: {prior.shift:.0%} of the examples from the source's."]
    first, *rest = prior.in_words(classes)
    return [first, " ".join(rest)] if rest else [first]
