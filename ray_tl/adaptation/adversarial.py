"""Methods that train features which a domain classifier can't tell apart."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.loss_weights import dann_ramp
from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision, require_positive
from ray_tl.adaptation.published import LIKE_CDAN, constant
from ray_tl.registry import Published


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """The identity, whose gradient is that of its output times `-strength`.

    Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016, https://arxiv.org/abs/1505.07818, sec. 4.2.
    """
    return _ReverseGradient.apply(features, strength)


@full_precision
def domain_classification_loss(source: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of a domain classifier for which the source is class 1, each domain weighing one half.

    Ganin et al., 2016, https://arxiv.org/abs/1505.07818. Departure: the sum over both
    domains is halved, so that chance level is log 2.

    Args:
        source: Logits for the source rows, [N].
        target: Logits for the target rows, [M].
    """
    return (F.softplus(-source).mean() + F.softplus(target).mean()) / 2


def domain_discriminator(width: int, hidden_width: int) -> nn.Sequential:
    """Two hidden layers of `hidden_width`, from [N, width] to one logit [N, 1], high for the source."""
    return nn.Sequential(
        nn.Linear(width, hidden_width),
        nn.ReLU(),
        nn.Linear(hidden_width, hidden_width),
        nn.ReLU(),
        nn.Linear(hidden_width, 1),
    )


@METHODS.register(
    "dann",
    ranges={"hidden_width": {"choice": [64, 256, 1024]}, "gamma": {"log_uniform": [1.0, 20.0]}},
    published=Published(
        "Ganin et al., 2016, https://arxiv.org/abs/1505.07818",
        params={"hidden_width": 1024, "gamma": 10.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="adversarial",
)
class Dann(AdaptationMethod):
    """DANN: features that a discriminator can't tell apart, by gradient reversal.

    Ganin et al., 2016, https://arxiv.org/abs/1505.07818. The strength 2 / (1 + exp(-gamma p)) - 1 of sec. 5.2.2, with
    p = progress, acts inside the reversal: the features feel it, the discriminator always learns at full strength.

    Args:
        context: Gives the width of the features.
        hidden_width: Width of the discriminator's two hidden layers, >= 1.
        gamma: How fast the strength of the reversal rises with progress, above 0.
    """

    aligns_features = True

    def __init__(self, context: MethodContext, *, hidden_width: int = 256, gamma: float = 10.0) -> None:
        super().__init__(context)
        require_positive("dann.hidden_width", hidden_width, usual=256)
        require_positive("dann.gamma", gamma, usual=10.0)
        self.gamma = gamma
        self.discriminator = domain_discriminator(context.feature_dim, hidden_width)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        features = torch.cat([step.source.features, step.target.features])
        reversed_features = reverse_gradient(features, dann_ramp(step.progress, self.gamma))
        logits = self.discriminator(reversed_features).squeeze(1)
        num_source = len(step.source.features)
        domain = domain_classification_loss(logits[:num_source], logits[num_source:])
        return {"task": task_loss(step), "domain": domain}


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength  # type: ignore[attr-defined]
        return features.view_as(features)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None  # type: ignore[attr-defined]
