"""Is it good, without target labels?"""

from ray_tl.validation import (  # noqa: F401  importing a module registers its validators
    density,
    ensemble,
    importance,
    mano,
    metrics,
    mixing,
    reverse,
    thresholds,
    transfer_score,
)
from ray_tl.validation.evidence import Features, Mixes, PoolEvidence, SourceEvidence, TargetEvidence
from ray_tl.validation.validators import VALIDATORS, Validator, looks_at_source, score_all

__all__ = [
    "VALIDATORS",
    "Features",
    "Mixes",
    "PoolEvidence",
    "SourceEvidence",
    "TargetEvidence",
    "Validator",
    "looks_at_source",
    "metrics",
    "score_all",
]
