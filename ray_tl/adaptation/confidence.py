"""Methods that make the predictions on the target confident, and keep them diverse.

All are functions of target logits and to be minimised. On several ranks they are those of the joined batch; every
rank brings equally many rows. Probabilities that underflow give their limit, never 0 * infinity.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import finite_log_softmax, full_precision, require_positive
from ray_tl.adaptation.published import LIKE_CDAN, LIKE_SHOT, constant
from ray_tl.collectives import gather_rows, sum_over_ranks, world_size
from ray_tl.registry import Published


@full_precision
def mean_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions of this rank, in nats, in [0, log C].

    Grandvalet and Bengio, "Semi-supervised Learning by Entropy Minimization", 2004,
    https://papers.nips.cc/paper/2740-semi-supervised-learning-by-entropy-minimization. A mean over rows: DDP's average
    over ranks is that of the joined batch.

    Args:
        logits: [N, C].
    """
    return _entropies(finite_log_softmax(logits)).mean()


@full_precision
def information_maximisation(logits: Tensor) -> Tensor:
    """Mean entropy less the entropy of the mean prediction: mean H(p) - H(mean p), in [-log C, 0].

    Liang et al., "Do We Really Need to Access the Source Data?" (SHOT-IM), 2020, https://arxiv.org/abs/2002.08546.
    The mean prediction is that of all ranks; the first term is this rank's, which DDP averages.

    Args:
        logits: [N, C].
    """
    log_probabilities = finite_log_softmax(logits)
    rows = len(logits) * world_size()
    mean = sum_over_ranks(log_probabilities.exp().sum(dim=0)) / rows
    diversity = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
    return _entropies(log_probabilities).mean() - diversity


@full_precision
def class_confusion(logits: Tensor, *, temperature: float = 2.5) -> Tensor:
    """How much the classes are confused with each other, in [0, 1): the off-diagonal share of the confusion matrix.

    Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation" (MCC), 2020,
    https://arxiv.org/abs/1912.03699: with Y = softmax(z / T), row weights w ~ 1 + exp(-H(y)) without
    gradient, C = Y^T diag(w) Y with rows normalised to 1, the loss is (sum C - tr C) / K. Computed as the same number
    without the K x K matrix: a normalised row of C sums to 1, and its normaliser is a softmax over examples, which
    makes the factor B / sum of the weights cancel and a class that nobody predicts harmless.

    Args:
        logits: [N, K].
        temperature: Above 0.
    """
    log_probabilities = finite_log_softmax(gather_rows(logits) / temperature)
    log_weights = torch.log1p(torch.exp(-_entropies(log_probabilities))).detach()
    share_of_example = F.softmax(log_weights[:, None] + log_probabilities, dim=0)
    trace = (share_of_example * log_probabilities.exp()).sum()
    return 1 - trace / logits.shape[1]


@full_precision
def batch_nuclear_norm(logits: Tensor) -> Tensor:
    """Nuclear norm of the matrix of predictions over the number of rows, negated: -||P||_* / N.

    Cui et al., "Towards Discriminability and Diversity: Batch Nuclear-norm Maximization" (BNM), 2020,
    https://arxiv.org/abs/2003.12237.

    Args:
        logits: [N, C].
    """
    probabilities = gather_rows(finite_log_softmax(logits).exp())
    if not probabilities.isfinite().all():
        return probabilities.sum()  # not a number, as every other loss of such logits; a decomposition would raise
    return -torch.linalg.svdvals(probabilities).sum() / len(probabilities)


@METHODS.register(
    "entropy",
    published=Published(
        "Long et al., 2016, https://arxiv.org/abs/1602.04433: the weight 0.3 of its entropy penalty; Grandvalet and "
        "Bengio cross-validate it",
        trial={**LIKE_CDAN, **constant(domain=0.3)},
    ),
)
class Entropy(AdaptationMethod):
    """Entropy minimisation: each prediction on the target becomes confident; alone it may collapse to one class."""

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": mean_entropy(step.target.logits)}


@METHODS.register(
    "im",
    published=Published(
        "Liang et al., 2020, https://arxiv.org/abs/2002.08546; there the source is left behind, and the head is frozen",
        trial={**LIKE_SHOT, **constant(domain=1.0)},
    ),
)
class InformationMaximisation(AdaptationMethod):
    """SHOT-IM: each prediction on the target becomes confident, and all classes are predicted."""

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": information_maximisation(step.target.logits)}


@METHODS.register(
    "mcc",
    ranges={"temperature": {"log_uniform": [1.0, 5.0]}},
    published=Published(
        "Jin et al., 2020, https://arxiv.org/abs/1912.03699",
        params={"temperature": 2.5},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
)
class Mcc(AdaptationMethod):
    """MCC: classes are not confused with each other on the target.

    Args:
        context: Not used.
        temperature: Divides the logits; above 1 the confident predictions count for less.
    """

    def __init__(self, context: MethodContext, *, temperature: float = 2.5) -> None:
        super().__init__(context)
        require_positive("mcc.temperature", temperature, usual=2.5)
        self.temperature = temperature

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        confusion = class_confusion(step.target.logits, temperature=self.temperature)
        return {"task": task_loss(step), "domain": confusion}


@METHODS.register(
    "bnm",
    published=Published(
        "Cui et al., 2020, https://arxiv.org/abs/2003.12237", trial={**LIKE_CDAN, **constant(domain=1.0)}
    ),
)
class Bnm(AdaptationMethod):
    """BNM: the matrix of predictions on the target has a large nuclear norm, so they are confident and diverse."""

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": batch_nuclear_norm(step.target.logits)}


def _entropies(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)
