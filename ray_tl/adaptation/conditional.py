"""Adversarial methods whose discriminator sees features together with the predicted classes.

Probabilities enter without gradient: they say which part of the feature space is compared, and only features move.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.adaptation.adversarial import domain_discriminator, reverse_gradient
from ray_tl.adaptation.loss_weights import dann_ramp
from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision, require_positive
from ray_tl.adaptation.published import LIKE_CDAN, constant
from ray_tl.collectives import sum_over_ranks, world_size
from ray_tl.registry import Published

Condition = Literal["softmax", "logits"]

RANDOM_WIDTH = 1024
_RANGES: Mapping[str, Mapping[str, object]] = {
    "hidden_width": {"choice": [64, 256, 1024]},
    "gamma": {"log_uniform": [1.0, 20.0]},
    "max_width": {"choice": [1024, 4096]},
    "condition": {"choice": ["softmax", "logits"]},
}


@full_precision
def multilinear_map(features: Tensor, probabilities: Tensor) -> Tensor:
    """Outer product of the features and the class probabilities of each row, [N, D * C]; gradients flow to both.

    Long et al., "Conditional Adversarial Domain Adaptation" (CDAN), 2018, https://arxiv.org/abs/1705.10667,
    "multilinear conditioning".

    Args:
        features: [N, D].
        probabilities: [N, C].
    """
    # As a product of matrices: faster than a product of broadcast tensors, forward and back.
    return torch.bmm(features[:, :, None], probabilities[:, None, :]).flatten(1)


@full_precision
def randomised_multilinear_map(
    features: Tensor, probabilities: Tensor, feature_directions: Tensor, class_directions: Tensor
) -> Tensor:
    """(f R_f) * (g R_g) / sqrt(W), [N, W]: inner products are those of the outer products in expectation.

    Long et al., 2018, https://arxiv.org/abs/1705.10667, "randomized multilinear map".

    Args:
        features: [N, D].
        probabilities: [N, C].
        feature_directions: R_f, [D, W], of independent entries with mean 0 and variance 1.
        class_directions: R_g, [C, W], likewise.
    """
    return (features @ feature_directions) * (probabilities @ class_directions) / math.sqrt(feature_directions.shape[1])


@full_precision
def entropy_weights(probabilities: Tensor) -> Tensor:
    """1 + exp(-H) for each row of one domain, [N], over the mean of that on all ranks; without gradient.

    Long et al., 2018, https://arxiv.org/abs/1705.10667, "entropy conditioning", with H in nats. The mean is that of the
    joined batch, so the weights of a domain have mean 1 over all ranks, as in the authors' code. Departures: the paper
    does not normalise; the authors' code lets a reversed gradient flow through the weights (not through their sum),
    and adds 1e-5 inside the logarithm.

    Args:
        probabilities: [N, C]; zeros are allowed.
    """
    weights = 1 + torch.exp(-torch.special.entr(probabilities.detach()).sum(dim=1))
    rows = len(weights) * world_size()
    return weights * rows / sum_over_ranks(weights.sum())


@full_precision
def weighted_domain_loss(source: Tensor, target: Tensor, source_weights: Tensor, target_weights: Tensor) -> Tensor:
    """Binary cross-entropy of a domain classifier with a weight for each row, each domain weighing one half.

    Long et al., 2018, https://arxiv.org/abs/1705.10667, with the source as class 1. Departure: the sum over both
    domains is halved, as in the authors' code, so that chance level is log 2. Means over the rows of this rank, which
    DDP averages.

    Args:
        source: Logits for the source rows, [N].
        target: Logits for the target rows, [M].
        source_weights: [N], of mean 1 over all ranks.
        target_weights: [M], of mean 1 over all ranks.
    """
    of_source = (source_weights * F.softplus(-source)).mean()
    of_target = (target_weights * F.softplus(target)).mean()
    return (of_source + of_target) / 2


@METHODS.register(
    "cdan",
    ranges=_RANGES,
    published=Published(
        "Long et al., 2018, https://arxiv.org/abs/1705.10667",
        params={"hidden_width": 1024, "gamma": 10.0, "max_width": 4096},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="adversarial",
)
class Cdan(AdaptationMethod):
    """CDAN: features that a discriminator can't tell apart even where it knows the predicted classes.

    Long et al., "Conditional Adversarial Domain Adaptation", 2018, https://arxiv.org/abs/1705.10667. The
    probabilities enter the map without gradient, as in the authors' code but not in the paper. As in DANN, the
    strength 2 / (1 + exp(-gamma p)) - 1 acts inside the reversal. Departure: no dropout in the discriminator.

    Args:
        context: Gives the width of the features and the number of classes.
        hidden_width: Width of the discriminator's two hidden layers, >= 1.
        gamma: How fast the strength of the reversal rises with progress, above 0.
        max_width: Largest D * C for which the discriminator sees the exact multilinear map, >= 1; above it, the
            randomised one of width 1024, or `max_width` if that is less, whose directions stay fixed.
        condition: What stands for the prediction in the map. `softmax`: the paper's probabilities. `logits`: a
            departure, that of skada, in which the reversed gradient moves the logits too.
    """

    aligns_features = True
    name: ClassVar[str] = "cdan"
    feature_directions: Tensor
    class_directions: Tensor

    def __init__(
        self,
        context: MethodContext,
        *,
        hidden_width: int = 256,
        gamma: float = 10.0,
        max_width: int = 4096,
        condition: Condition = "softmax",
    ) -> None:
        super().__init__(context)
        require_positive(f"{self.name}.hidden_width", hidden_width, usual=256)
        require_positive(f"{self.name}.gamma", gamma, usual=10.0)
        require_positive(f"{self.name}.max_width", max_width, usual=4096)
        self.gamma = gamma
        self.condition = condition
        width = context.feature_dim * context.num_classes
        self.randomised = width > max_width
        if self.randomised:
            width = min(RANDOM_WIDTH, max_width)
            self.register_buffer("feature_directions", torch.randn(context.feature_dim, width))
            self.register_buffer("class_directions", torch.randn(context.num_classes, width))
        self.discriminator = domain_discriminator(width, hidden_width)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        source, target = _probabilities(step.source.logits), _probabilities(step.target.logits)
        strength = dann_ramp(step.progress, self.gamma)
        features = reverse_gradient(torch.cat([step.source.features, step.target.features]), strength)
        predictions = torch.cat([source, target])
        if self.condition == "logits":
            predictions = reverse_gradient(torch.cat([step.source.logits, step.target.logits]), strength)
        joint = self.joint_map(features, predictions)
        of_source, of_target = self.discriminator(joint).squeeze(1).split([len(source), len(target)])
        domain = weighted_domain_loss(of_source, of_target, self.weights(source), self.weights(target))
        return {"task": task_loss(step), "domain": domain}

    def joint_map(self, features: Tensor, predictions: Tensor) -> Tensor:
        """What the discriminator sees of features [N, D] and predictions [N, C]."""
        if not self.randomised:
            return multilinear_map(features, predictions)
        return randomised_multilinear_map(features, predictions, self.feature_directions, self.class_directions)

    def weights(self, probabilities: Tensor) -> Tensor:
        """How much each row of one domain counts, [N], with mean 1 over all ranks."""
        return torch.ones_like(probabilities[:, 0])


@METHODS.register(
    "cdan_e",
    ranges=_RANGES,
    published=Published(
        "Long et al., 2018, https://arxiv.org/abs/1705.10667",
        params={"hidden_width": 1024, "gamma": 10.0, "max_width": 4096},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="adversarial",
)
class CdanE(Cdan):
    """CDAN+E: CDAN in which examples with a confident prediction count up to twice as much.

    Long et al., 2018, https://arxiv.org/abs/1705.10667, "entropy conditioning"; see `entropy_weights`.
    """

    name = "cdan_e"

    def weights(self, probabilities: Tensor) -> Tensor:
        return entropy_weights(probabilities)


@full_precision
def _probabilities(logits: Tensor) -> Tensor:
    return F.softmax(logits.detach(), dim=1)
