"""Is it good, without target labels?"""

from ray_tl.validation import metrics
from ray_tl.validation.evidence import Features, Mixes, PoolEvidence, SourceEvidence, TargetEvidence
from ray_tl.validation.validators import VALIDATORS, Validator, score_all

__all__ = [
    "VALIDATORS",
    "Features",
    "Mixes",
    "PoolEvidence",
    "SourceEvidence",
    "TargetEvidence",
    "Validator",
    "metrics",
    "score_all",
]
