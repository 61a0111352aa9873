"""How is the gap between two domains closed?"""

from ray_tl.adaptation import adversarial, alignment, closed_form, confidence, source_only
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
    "adversarial",
    "alignment",
    "closed_form",
    "confidence",
    "source_only",
]
