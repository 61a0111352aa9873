"""What a rule of choice is: what it looks at in each epoch, what the search maximises, and which trial wins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ray_tl.registry import Registry
from ray_tl.selection.choice import Choice, EvidenceOf, Verdict
from ray_tl.study.records import TrialRecord
from ray_tl.validation import SourceEvidence, TargetEvidence

Scores = dict[str, float]


@dataclass(frozen=True)
class SelectionContext:
    """What a rule may know of a study.

    Attributes:
        classes: Names of the C classes.
        source_shares: Share of each class among the source labels, [C].
        target_shares: Share of each class in the target, [C], where users have stated it.
        source_weight: How much the source counts in the objective, in [0, 1].
        num_target: Recorded rows of the target.
        validators: Scores that are recorded each epoch, whether the rule asks for them or not.
        has_judge: Whether there is a space that no trial trains, in which predictions can be held against neighbours.
    """

    classes: tuple[str, ...]
    source_shares: tuple[float, ...]
    target_shares: tuple[float, ...] | None = None
    source_weight: float = 1.0
    num_target: int = 1
    validators: tuple[str, ...] = ()
    has_judge: bool = True


class SelectionRule(Protocol):
    """A rule of choice. It imports no torch: clients that only wait compute objectives."""

    def observe(self, source: SourceEvidence, target: TargetEvidence) -> Scores:
        """Label-free scores of an epoch by name.

        Raises:
            TrialFailed: If the evidence is not finite.
        """
        ...

    def objective(self, scores: Mapping[str, float], histogram: Sequence[float]) -> float:
        """What the search maximises.

        Args:
            scores: As `observe` gave them.
            histogram: Share of each class among the predictions on the target, [C].
        """
        ...

    def choose(self, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Choice | None:
        """Order all trials that ran to full fidelity; `None` if none did.

        Args:
            trials: Of the study, in any state.
            evidence: By number of a trial at full fidelity.
        """
        ...

    def compare(
        self, trials: Sequence[TrialRecord], evidence: EvidenceOf, old: TrialRecord, new: TrialRecord
    ) -> Verdict:
        """Whether a refit is worse than its trial, by the target alone: held-out source examples trained it.

        Args:
            trials: Of the study, in any state; other refits count for nothing.
            evidence: By number of a trial at full fidelity, and of `new`.
            old: At full fidelity.
            new: At full fidelity.
        """
        ...


SELECTION_RULES: Registry[SelectionRule] = Registry("selection rule")
