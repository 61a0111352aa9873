"""Methods that make the features of both domains long, since features of small norm transfer badly.

Xu et al., "Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised Domain Adaptation", 2019,
https://arxiv.org/abs/1811.07456. A feature of zeros has no direction to grow in: it keeps gradient 0.
"""

import torch
from torch import Tensor

from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision, require_positive
from ray_tl.adaptation.published import constant
from ray_tl.collectives import sum_over_ranks, world_size
from ray_tl.registry import Published

WIDE_BOTTLENECK = {
    "adaptor": {"bottleneck": {"width": 1000, "norm": "batch", "activation": "relu", "dropout": 0.5}},
    "freeze_depth": "everything",
    "optimizer": {"sgd": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}},
    "lr_schedule": "constant",
    "batch_size": 32,
}


@full_precision
def stepwise_norm_loss(source: Tensor, target: Tensor, *, step: float = 1.0) -> Tensor:
    """Mean over the rows of both domains of (||f|| - (||f|| without gradient + step))^2.

    Xu et al., 2019, "Stepwise Adaptive Feature Norm" (SAFN): every norm is asked to grow by the same step, whatever it
    is. The value is always step^2; only the gradient -2 step f / ||f|| over the number of rows tells anything. A mean
    over the rows of this rank: DDP's average over ranks is that of the joined batch.
    Departure: the paper takes the norm that is left behind from the parameters of the iteration before; as in the
    authors' code it is that of this forward pass. Their code adds the means of the two domains; the paper and this
    function take one mean over both, half of that for batches of equal size.

    Args:
        source: Features [N, D], N >= 1.
        target: Features [M, D], M >= 1; M may differ from N.
        step: By how much each norm should grow, above 0, in units of the features.
    """
    norms = torch.cat([_norms(source), _norms(target)])
    # The norms are subtracted first: a step is lost in the rounding of a long feature.
    growth = norms - norms.detach()
    return (growth - step).square().mean()


@full_precision
def hard_norm_loss(source: Tensor, target: Tensor, *, radius: float = 25.0) -> Tensor:
    """Sum over both domains of (mean ||f|| - radius)^2.

    Xu et al., 2019, "Hard Adaptive Feature Norm" (HAFN): the mean norm of each domain, not each norm, is drawn to the
    radius. The means are those of all ranks, and gradients flow through them.

    Args:
        source: Features [N, D], N >= 1.
        target: Features [M, D], M >= 1; M may differ from N.
        radius: Above 0, in units of the features.
    """
    return (_mean_norm(source) - radius).square() + (_mean_norm(target) - radius).square()


@METHODS.register(
    "afn",
    ranges={"step": {"log_uniform": [0.01, 1.0]}},
    published=Published(
        "Xu et al., 2019, https://arxiv.org/abs/1811.07456: step 1 at weight 0.05 for each domain, which is step 0.1 "
        "at weight 1",
        params={"step": 0.1},
        trial={**WIDE_BOTTLENECK, **constant(domain=1.0)},
    ),
    family="alignment",
)
class Afn(AdaptationMethod):
    """AFN, stepwise (SAFN): the norm of every source and target feature grows step by step.

    Args:
        context: Not used.
        step: By how much each norm is asked to grow; it scales the gradient, so it trades off with the loss weight. At
            weight 1 the default pulls as the paper's step 1 does at its weight of 0.05 for each domain.
    """

    def __init__(self, context: MethodContext, *, step: float = 0.1) -> None:
        super().__init__(context)
        require_positive("afn.step", step, usual=0.1)
        self.step = step

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        domain = stepwise_norm_loss(step.source.features, step.target.features, step=self.step)
        return {"task": task_loss(step), "domain": domain}


@METHODS.register(
    "hafn",
    ranges={"radius": {"log_uniform": [5.0, 100.0]}, "strength": {"log_uniform": [0.005, 0.5]}},
    published=Published(
        "Xu et al., 2019, https://arxiv.org/abs/1811.07456",
        params={"radius": 25.0, "strength": 0.05},
        trial={**WIDE_BOTTLENECK, **constant(domain=1.0)},
    ),
    family="alignment",
)
class Hafn(AdaptationMethod):
    """HAFN: the mean norms of source and target features are drawn to one radius.

    Args:
        context: Not used.
        radius: To be chosen above the norms that the backbone gives without adaptation.
        strength: Of the pull at weight 1, above 0; the paper has 0.05. Squares of lengths outgrow any task loss.
    """

    def __init__(self, context: MethodContext, *, radius: float = 25.0, strength: float = 0.05) -> None:
        super().__init__(context)
        require_positive("hafn.radius", radius, usual=25.0)
        require_positive("hafn.strength", strength, usual=0.05)
        self.radius, self.strength = radius, strength

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        domain = hard_norm_loss(step.source.features, step.target.features, radius=self.radius)
        return {"task": task_loss(step), "domain": self.strength * domain}


def _norms(features: Tensor) -> Tensor:
    return torch.linalg.vector_norm(features, dim=1)


def _mean_norm(features: Tensor) -> Tensor:
    return sum_over_ranks(_norms(features).sum()) / (len(features) * world_size())
