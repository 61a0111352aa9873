"""How is the gap between two domains closed?"""

from ray_tl.adaptation import (  # noqa: F401  importing a module registers its methods
    adda,
    adversarial,
    alignment,
    closed_form,
    composition,
    conditional,
    confidence,
    discrepancy,
    feature_norm,
    normalisation,
    partial,
    reconstruction,
    reweighting,
    self_training,
    source_only,
    target_labels,
    teachers,
    transport,
)
from ray_tl.adaptation.loss_weights import LOSS_WEIGHTS, LossWeights
from ray_tl.adaptation.method import METHODS, AdaptationMethod, DomainOutputs, MethodContext, Outputs, StepOutputs

__all__ = [
    "LOSS_WEIGHTS",
    "METHODS",
    "AdaptationMethod",
    "DomainOutputs",
    "LossWeights",
    "MethodContext",
    "Outputs",
    "StepOutputs",
]
