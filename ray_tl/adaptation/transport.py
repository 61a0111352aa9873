"""Methods that move the source onto the target along an optimal transport plan.

On several ranks the plan is that of the joined batch, and every rank finds it for itself; every rank brings equally
many rows of a domain.
"""

import torch
from torch import Tensor

from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import finite_log_softmax, full_precision, require_positive, squared_distances
from ray_tl.adaptation.published import DIGITS, constant
from ray_tl.collectives import gather_rows
from ray_tl.registry import Published


@full_precision
def joint_transport_cost(
    source: Tensor,
    target: Tensor,
    target_logits: Tensor,
    *,
    labels: Tensor,
    feature_weight: float = 0.001,
    label_weight: float = 0.0001,
) -> Tensor:
    """Least cost of transporting source features and labels onto target features and predictions.

    Damodaran et al., "DeepJDOT: Deep Joint Distribution Optimal Transport for Unsupervised Domain Adaptation", 2018,
    https://arxiv.org/abs/1803.10081: with the cost of a pair a ||f_i - f_j||^2 + b CE(y_i, p_j), the loss is the sum of
    plan times cost, where the plan, between uniform weights, is the exact one (network simplex of POT) and carries no
    gradient. Gradients flow through the features of both domains and the target logits. Time grows faster than the
    square of the batch: about 1 ms for 64 rows a domain, 20 ms for 256 and 0.6 s for 1024, on the CPU.
    Departure: the cross-entropy of the source is the task loss and no part of this.

    Args:
        source: Features [N, D], N >= 1.
        target: Features [M, D], M >= 1; M may differ from N.
        target_logits: [M, C].
        labels: Of the source rows, int64 [N], in 0..C-1.
        feature_weight: The paper's alpha, above 0.
        label_weight: The paper's lambda_t, above 0.
    """
    distances = squared_distances(gather_rows(source), gather_rows(target))
    cross_entropies = _cross_entropies(gather_rows(labels), gather_rows(target_logits))
    cost = feature_weight * distances + label_weight * cross_entropies
    if not cost.isfinite().all():
        return cost.sum()  # not finite, as every other loss of such features; there is no plan for them
    return (_optimal_plan(cost.detach()) * cost).sum()


@METHODS.register(
    "deepjdot",
    ranges={"feature_weight": {"log_uniform": [0.0001, 0.1]}, "label_weight": {"log_uniform": [0.00001, 1.0]}},
    published=Published(
        "Damodaran et al., 2018, https://arxiv.org/abs/1803.10081, digits",
        params={"feature_weight": 0.001, "label_weight": 0.0001},
        trial={**DIGITS, "batch_size": 500, **constant(domain=1.0)},
    ),
    family="alignment",
)
class DeepJdot(AdaptationMethod):
    """DeepJDOT: source features and labels are transported onto target features and predictions at least cost.

    The ratio of the two weights shapes the plan; a common factor does what the weight of the loss does.

    Args:
        context: Not used.
        feature_weight: Weight of the squared distance of the features, alpha in the paper.
        label_weight: Weight of the cross-entropy of target predictions against source labels, lambda_t in the paper.
    """

    aligns_features = True
    takes_mixed_source = False  # the cost of a pair is that of one source class

    def __init__(self, context: MethodContext, *, feature_weight: float = 0.001, label_weight: float = 0.0001) -> None:
        super().__init__(context)
        require_positive("deepjdot.feature_weight", feature_weight, usual=0.001)
        require_positive("deepjdot.label_weight", label_weight, usual=0.0001)
        self.feature_weight = feature_weight
        self.label_weight = label_weight

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        cost = joint_transport_cost(
            step.source.features,
            step.target.features,
            step.target.logits,
            labels=step.labels,
            feature_weight=self.feature_weight,
            label_weight=self.label_weight,
        )
        return {"task": task_loss(step), "domain": cost}


def _cross_entropies(labels: Tensor, logits: Tensor) -> Tensor:
    """Of each target prediction against each source label, [N, M]."""
    # Bounded, because an infinite cost has no plan.
    return -finite_log_softmax(logits)[:, labels].T


def _optimal_plan(cost: Tensor) -> Tensor:
    """The plan [N, M] of least cost whose rows sum to 1 / N and whose columns sum to 1 / M."""
    import ot  # takes most of a second, which trials of other methods need not spend

    num_source, num_target = cost.shape
    # The plan does not depend on the unit of the cost, but the solver takes differences of 1e-14 for none.
    scaled = cost / cost.amax().clamp_min(torch.finfo(cost.dtype).tiny)
    plan = ot.emd(ot.unif(num_source), ot.unif(num_target), scaled.double().cpu().numpy())
    return torch.from_numpy(plan).to(cost)
