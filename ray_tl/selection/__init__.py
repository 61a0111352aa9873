"""Which trial wins? Rules of choice, and what they are made of; nothing here imports torch."""

from ray_tl.selection.by_agreement import ByAgreement
from ray_tl.selection.by_validators import ByValidators
from ray_tl.selection.choice import Candidate, Choice, LabelledPredictions, TrialEvidence, Verdict
from ray_tl.selection.rule import SELECTION_RULES, SelectionContext, SelectionRule
from ray_tl.selection.study import rule_of

__all__ = [
    "SELECTION_RULES",
    "ByAgreement",
    "ByValidators",
    "Candidate",
    "Choice",
    "LabelledPredictions",
    "SelectionContext",
    "SelectionRule",
    "TrialEvidence",
    "Verdict",
    "rule_of",
]
