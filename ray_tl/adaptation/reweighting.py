"""Methods that weigh the labelled source rows, so that the task counts where the target lies.

Weights have mean 1, so that the loss keeps its scale, and carry no gradient. On several ranks they are those of the
joined batch; every rank brings equally many rows of a domain.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import lsq_linear
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.adversarial import domain_classification_loss
from ray_tl.adaptation.conditional import entropy_weights
from ray_tl.adaptation.method import (
    METHODS,
    AdaptationMethod,
    DomainOutputs,
    MethodContext,
    StepOutputs,
    source_losses,
)
from ray_tl.adaptation.numerics import full_precision, require_positive
from ray_tl.adaptation.published import LIKE_CDAN, constant
from ray_tl.collectives import rank, sum_over_ranks, world_size
from ray_tl.errors import InvalidInput
from ray_tl.registry import Published

MAX_MATCHED_ROWS = 500
RIDGE = 1e-3


@full_precision
def weighted_task_loss(logits: Tensor, weights: Tensor, *, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the rows of this rank of weight times cross-entropy, which DDP averages; not divided by the weights.

    Args:
        logits: [N, C].
        weights: [N], of mean 1 over all rows of which this batch is a part; detached.
        labels: int64 [N], or the share of each class, [N, C].
        smoothing: Share of each label that is spread over all classes, in [0, 1).
    """
    return (weights.detach() * F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)).mean()


def weighted_source_loss(step: StepOutputs, weights: Tensor) -> Tensor:
    """`weighted_task_loss` of the source batch, in which the weights of the classes, if there are any, count too.

    Args:
        step: With N source rows.
        weights: [N], of mean 1 over all rows of which this batch is a part; detached.
    """
    return (weights.detach() * source_losses(step)).mean()


@full_precision
def importance_weights(domain_logits: Tensor, *, largest_ratio: float = 10.0) -> Tensor:
    """p(target | f) / p(source | f) of source rows, clipped, over its mean in the joint batch; [N], without gradient.

    Bickel et al., "Discriminative Learning Under Covariate Shift", 2009, https://jmlr.org/papers/v10/bickel09a.html,
    and Sugiyama et al., "Density Ratio Estimation in Machine Learning", 2012, ch. 4: the odds of a classifier of
    domains are the ratio of the densities, if both domains count alike in its training. Departure: the ratio is
    clipped to [1 / largest_ratio, largest_ratio], since a classifier that is sure of a row says nothing about how sure
    it may be. Where it is sure of every row alike, for instance of domains that do not overlap, all weights are 1.

    Args:
        domain_logits: Of source rows, [N]; log p(source | f) - log p(target | f).
        largest_ratio: Above 1.
    """
    bound = float(np.log(largest_ratio))
    return over_joint_mean(torch.exp(-domain_logits.detach().clamp(-bound, bound)))


def kernel_matching_weights(
    source: NDArray[np.float64], target: NDArray[np.float64], *, bandwidth: float = 1.0, largest_weight: float = 10.0
) -> NDArray[np.float64]:
    """Weights of source rows under which the source has the target's mean in the space of a Gaussian kernel.

    Huang et al., "Correcting Sample Selection Bias by Unlabeled Data", 2006,
    https://is.mpg.de/publications/4194: minimise
    b' K b / 2 - k' b over 0 <= b <= largest_weight, K the kernel of the source rows, k_i = N times the mean kernel of
    source row i with the target rows, as a quadratic programme (`scipy.optimize.lsq_linear`). Departures:

    - The kernel is 1 + exp(-||x - y||^2 / (2 bandwidth s^2)), s^2 the mean squared distance of two different rows of
      both domains. The 1 matches the mass of the weights with that of the target, in place of the constraint that
      their mean be within epsilon of 1; afterwards they are divided by their mean, which may take them up to
      2 * largest_weight.
    - RIDGE / 2 * ||b - 1||^2 is added: rows that the kernel can't tell apart share their weight evenly.

    Args:
        source: Features [N, D].
        target: Features [M, D].
        bandwidth: Factor on s^2, above 0.
        largest_weight: Above 1.

    Returns:
        [N], at least 0, of mean 1; not a number where a feature is not.
    """
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        return np.full(len(source), np.nan)  # so the task loss tells of it; the solver would raise
    squared = cdist(np.concatenate([source, target]), np.concatenate([source, target]), "sqeuclidean")
    num_source, num_pairs = len(source), len(squared) * (len(squared) - 1)
    variance = max(bandwidth * squared.sum() / num_pairs, np.finfo(np.float64).tiny)
    kernel = 1 + np.exp(-squared[:num_source] / (2 * variance))
    curvature = kernel[:, :num_source] + RIDGE * np.eye(num_source)
    pull = num_source * kernel[:, num_source:].mean(axis=1) + RIDGE
    weights = _box_minimum(curvature, pull, largest_weight)
    return weights / weights.mean()


def over_joint_mean(weights: Tensor) -> Tensor:
    """Weights of this rank's rows over their mean in the joint batch of all ranks, [N]; all 0 if all are."""
    total = sum_over_ranks(weights.sum())
    return weights * len(weights) * world_size() / total.clamp_min(torch.finfo(weights.dtype).tiny)


@METHODS.register(
    "importance_weighting",
    ranges={"hidden_width": {"choice": [64, 256, 1024]}, "largest_ratio": {"log_uniform": [2.0, 100.0]}},
    published=Published(
        "Bickel et al., 2009, https://jmlr.org/papers/v10/bickel09a.html, gives no settings of a network: these are "
        "ours, trained as the source model of CDAN",
        params={"largest_ratio": 10.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="source",
)
class ImportanceWeighting(AdaptationMethod):
    """Source rows weigh as much more as a learned classifier of domains finds them likelier in the target.

    Bickel et al., 2009, https://jmlr.org/papers/v10/bickel09a.html; see `importance_weights`. The classifier learns
    beside the network on detached features: its loss is `domain`, and never reaches them. The weight of that loss
    changes how fast the classifier learns and nothing else; at 0 the rows keep about equal weights.

    Args:
        context: Gives the width of the features.
        hidden_width: Width of the classifier's hidden layer, >= 1.
        largest_ratio: Clips the ratio of the densities to its inverse and this, above 1.
    """

    def __init__(self, context: MethodContext, *, hidden_width: int = 256, largest_ratio: float = 10.0) -> None:
        super().__init__(context)
        require_positive("importance_weighting.hidden_width", hidden_width, usual=256)
        _require_above_one("importance_weighting.largest_ratio", largest_ratio)
        self.largest_ratio = largest_ratio
        self.classifier = nn.Sequential(
            nn.Linear(context.feature_dim, hidden_width), nn.ReLU(), nn.Linear(hidden_width, 1)
        )

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        features = torch.cat([step.source.features, step.target.features]).detach()
        logits = self.classifier(features).squeeze(1)
        source_logits, target_logits = logits.tensor_split([len(step.source.features)])
        weights = importance_weights(source_logits, largest_ratio=self.largest_ratio)
        task = weighted_source_loss(step, weights)
        return {"task": task, "domain": domain_classification_loss(source_logits, target_logits)}


@METHODS.register(
    "kernel_mean_matching",
    ranges={"bandwidth": {"log_uniform": [0.1, 10.0]}, "largest_weight": {"log_uniform": [2.0, 1000.0]}},
    published=Published(
        "Huang et al., 2006, https://is.mpg.de/publications/4194: weights up to 1000; trained as the source model of "
        "CDAN",
        params={"largest_weight": 1000.0},
        trial=LIKE_CDAN,
    ),
    family="source",
)
class KernelMeanMatching(AdaptationMethod):
    """Source rows weigh so that the source has the target's mean in the space of a Gaussian kernel, anew each epoch.

    Huang et al., 2006; see `kernel_matching_weights`. Departures: the weights follow the features as they are learned.
    And where a domain has more than `MAX_MATCHED_ROWS` rows, the target is a sample of that many, and the source is
    cut at random into parts of at most that many, each matched alone, as in Chandra et al., "Efficient Sampling-based
    Kernel Mean Matching", 2016, https://research.ibm.com/publications/efficient-sampling-based-kernel-mean-matching.
    Both are the same in every epoch.

    Before the first epoch every row weighs 1.

    Args:
        context: Gives the number of source rows.
        bandwidth: Factor on the mean squared distance that sets the width of the kernel, above 0.
        largest_weight: Bound on each weight before they are divided by their mean, above 1.
    """

    needs = ("source",)
    needs_domains = ("source", "target")
    takes_mixed_source = False  # a weight belongs to one source row
    loss_names = ("task",)
    weights: Tensor

    def __init__(self, context: MethodContext, *, bandwidth: float = 1.0, largest_weight: float = 10.0) -> None:
        super().__init__(context)
        require_positive("kernel_mean_matching.bandwidth", bandwidth, usual=1.0)
        _require_above_one("kernel_mean_matching.largest_weight", largest_weight)
        self.bandwidth = bandwidth
        self.largest_weight = largest_weight
        self.register_buffer("weights", torch.ones(context.num_source), persistent=False)

    @torch.no_grad()
    def begin_epoch(self, domains: Mapping[str, DomainOutputs], progress: float) -> None:
        weights = self.weights.new_zeros(len(domains["source"].features))
        # Solvers on machines of different make may differ in the last digit: one rank solves for all.
        if rank() == 0:
            weights += torch.as_tensor(self._matched(domains)).to(weights)
        self.weights = sum_over_ranks(weights)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        assert step.source.rows is not None
        weights = self.weights[step.source.rows]
        return {"task": weighted_source_loss(step, weights)}

    def _matched(self, domains: Mapping[str, DomainOutputs]) -> NDArray[np.float64]:
        source, target = (domains[name].features.double().cpu().numpy() for name in ("source", "target"))
        sample = target[_shuffled(len(target))[:MAX_MATCHED_ROWS]]
        weights = np.empty(len(source))
        for part in np.array_split(_shuffled(len(source)), -(-len(source) // MAX_MATCHED_ROWS)):
            weights[part] = kernel_matching_weights(
                source[part], sample, bandwidth=self.bandwidth, largest_weight=self.largest_weight
            )
        return weights


@METHODS.register(
    "entropy_weighting",
    published=Published(
        "Long et al., 2018, https://arxiv.org/abs/1705.10667: trained as CDAN+E, whose weights these are",
        trial=LIKE_CDAN,
    ),
    family="source",
)
class EntropyWeighting(AdaptationMethod):
    """Source rows weigh 1 + exp(-H) for the entropy H of their prediction: certain ones up to twice the others.

    The weighting of CDAN+E (Long et al., 2018, https://arxiv.org/abs/1705.10667; see `entropy_weights`). Departure:
    there it weighs the rows of the domain classifier, here those of the task. The target is never looked at.
    """

    needs = ("source",)
    loss_names = ("task",)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        weights = entropy_weights(F.softmax(step.source.logits, dim=1))
        return {"task": weighted_source_loss(step, weights)}


def _require_above_one(field: str, value: float) -> None:
    require_positive(field, value, usual=10.0)
    if value <= 1:
        raise InvalidInput(f"{field}={value!r} must be above 1, or it leaves no weight to choose; 10 is usual.")


def _shuffled(num_rows: int) -> NDArray[np.int64]:
    # Not every n-th row: in files whose classes take turns that could pick one class alone.
    return np.random.default_rng(0).permutation(num_rows)


def _box_minimum(curvature: NDArray[np.float64], pull: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """The b in [0, bound]^N that minimises b' curvature b / 2 - pull' b, for a positive definite curvature."""
    root = cholesky(curvature, lower=True)
    # The active-set solver ends at the minimum; L-BFGS-B stalls at some of these problems' bounds.
    found = lsq_linear(root.T, solve_triangular(root, pull, lower=True), (0.0, bound), method="bvls", tol=1e-12)
    return np.clip(found.x, 0.0, bound)
