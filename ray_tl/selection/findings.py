"""What a pool of trials says of its target and of its champion, once the choice is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_tl.errors import Unavailable
from ray_tl.selection.choice import Choice, EvidenceOf, TrialEvidence
from ray_tl.selection.expected_accuracy import ExpectedAccuracy, expected_accuracy
from ray_tl.selection.families import family_of
from ray_tl.selection.pool import baseline_of
from ray_tl.study.records import StudySpec, TrialRecord


@dataclass(frozen=True)
class Findings:
    """What no label of the target was read for.

    Attributes:
        expected: Accuracy of the champion on the target; `None` where the pool says too little.
        not_expected: Why.
    """

    expected: ExpectedAccuracy | None
    not_expected: str = ""

    def content(self) -> dict[str, object]:
        """As `champion.json` keeps it."""
        if self.expected is None:
            return {"expected": None, "not_expected": self.not_expected}
        return {"expected": self.expected.summary()}


def findings_of(spec: StudySpec, choice: Choice, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Findings:
    """What the trials that no guard rejects say of the one that was chosen.

    Args:
        spec: Of the study.
        choice: Of its rule.
        trials: Of the study.
        evidence: What each has left.
    """
    sound = [item.trial for item in choice.candidates if item.rejected is None]
    outputs = {trial.number: evidence(trial.number) for trial in sound}
    families = {trial.number: family_of(trial.config) for trial in sound}
    return _expectation(choice.champion, outputs, families, baseline_of(trials), len(spec.classes))


def _expectation(
    champion: TrialRecord,
    outputs: Mapping[int, TrialEvidence],
    families: Mapping[int, str],
    baseline: TrialRecord | None,
    num_classes: int,
) -> Findings:
    number = None if baseline is None else baseline.number
    try:
        return Findings(expected_accuracy(champion.number, outputs, families, number, num_classes))
    except Unavailable as error:
        return Findings(None, str(error))
