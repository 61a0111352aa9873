"""A classifier made of words: the parts that the head of that name and a teacher share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.method import MethodContext
from ray_tl.adaptation.numerics import full_precision
from ray_tl.errors import InvalidInput

TEMPLATE = "a photo of a {}"
TEMPLATES = (TEMPLATE, "a picture of a {}", "a drawing of a {}", "{}")


@full_precision
def word_logits(features: Tensor, weights: Tensor) -> Tensor:
    """Products of normalised features [B, D] and what describes each class, [C, D], to [B, C]."""
    return F.normalize(features) @ weights.to(features.dtype).T


class ZeroShotHead(nn.Module):
    """Normalised features times what describes each class; no gradient reaches the descriptions.

    Args:
        num_classes: C.
        feature_dim: D.
    """

    weights: Tensor

    def __init__(self, num_classes: int, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(num_classes, feature_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] to logits [B, C]."""
        return word_logits(features, self.weights)


def class_weights(context: MethodContext, template: str) -> Tensor:
    """What describes each class, [C, D].

    Raises:
        InvalidInput: If the backbone knows no words.
    """
    if context.embed_texts is None:
        raise InvalidInput("the backbone knows no words; choose backbone clip with pretrained weights.")
    return context.embed_texts([template.replace("{}", name.replace("_", " ")) for name in context.class_names])


def require_template(field: str, template: str) -> None:
    """Raise `InvalidInput` if there is no place for the name of a class."""
    if "{}" not in template:
        raise InvalidInput(f"{field}={template!r} has no place for the name of a class; write {TEMPLATE!r}.")
