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
from ray_tl.adaptation.target_prior import PRIOR_RANGES, Prior, PriorAware, relative_shares
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
def information_maximisation(logits: Tensor, *, prior: Tensor | None = None) -> Tensor:
    """Mean entropy less the entropy of the mean prediction: mean H(p) - H(mean p), in [-log C, 0].

    Liang et al., "Do We Really Need to Access the Source Data?" (SHOT-IM), 2020, https://arxiv.org/abs/2002.08546.
    The mean prediction is that of all ranks; the first term is this rank's, which DDP averages.

    Departure, if the classes of the target are not equally frequent: mean H(p) + KL(mean p || prior) - log C, which
    for an even prior is the same, and is best where predictions are sure and on average the prior.

    Args:
        logits: [N, C].
        prior: Share of each class in the target, [C]; `None` for even ones. See `relative_shares` for a share of 0.
    """
    log_probabilities = finite_log_softmax(logits)
    rows = len(logits) * world_size()
    mean = sum_over_ranks(log_probabilities.exp().sum(dim=0)) / rows
    diversity = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
    if prior is not None:
        diversity = diversity + (mean * relative_shares(prior).to(mean).log()).sum()
    return _entropies(log_probabilities).mean() - diversity


@full_precision
def class_confusion(logits: Tensor, *, temperature: float = 2.5, prior: Tensor | None = None) -> Tensor:
    """How much the classes are confused with each other, in [0, 1): the off-diagonal share of the confusion matrix.

    Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation" (MCC), 2020,
    https://arxiv.org/abs/1912.03699: with Y = softmax(z / T), row weights w ~ 1 + exp(-H(y)) without
    gradient, C = Y^T diag(w) Y with rows normalised to 1, the loss is (sum C - tr C) / K. Computed as the same number
    without the K x K matrix: a normalised row of C sums to 1, and its normaliser is a softmax over examples, which
    makes the factor B / sum of the weights cancel and a class that nobody predicts harmless.

    Departure, if the classes of the target are not equally frequent: class k counts by its share pi_k in place of
    1 / K, 1 - sum_k pi_k C_kk. A class of the source that the target lacks then costs nothing if nobody predicts it;
    by the paper's mean it costs up to 1 / K.

    Args:
        logits: [N, K].
        temperature: Above 0.
        prior: Share of each class in the target, [K]; `None` for even ones. See `relative_shares` for a share of 0.
    """
    log_probabilities = finite_log_softmax(gather_rows(logits) / temperature)
    log_weights = torch.log1p(torch.exp(-_entropies(log_probabilities))).detach()
    share_of_example = F.softmax(log_weights[:, None] + log_probabilities, dim=0)
    diagonal = share_of_example * log_probabilities.exp()
    trace = (diagonal if prior is None else diagonal * relative_shares(prior).to(diagonal)).sum()
    return 1 - trace / logits.shape[1]


@full_precision
def batch_nuclear_norm(logits: Tensor, *, prior: Tensor | None = None) -> Tensor:
    """Nuclear norm of the matrix of predictions over the number of rows, negated: -||P||_* / N.

    Cui et al., "Towards Discriminability and Diversity: Batch Nuclear-norm Maximization" (BNM), 2020,
    https://arxiv.org/abs/2003.12237.

    Departure, if the classes of the target are not equally frequent: column c of P is multiplied by sqrt(C pi_c). Of
    sure predictions, N_c for class c, the norm is sum_c sqrt(C pi_c N_c), which by Cauchy and Schwarz is largest where
    N_c = N pi_c; the paper's, where all N_c are equal.

    Args:
        logits: [N, C].
        prior: Share of each class in the target, [C]; `None` for even ones. See `relative_shares` for a share of 0.
    """
    probabilities = gather_rows(finite_log_softmax(logits).exp())
    if prior is not None:
        probabilities = probabilities * relative_shares(prior).to(probabilities).sqrt()
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
    family="confidence",
)
class Entropy(AdaptationMethod):
    """Entropy minimisation: each prediction on the target becomes confident; alone it may collapse to one class."""

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": mean_entropy(step.target.logits)}


@METHODS.register(
    "im",
    ranges=PRIOR_RANGES,
    published=Published(
        "Liang et al., 2020, https://arxiv.org/abs/2002.08546; there the source is left behind, and the head is frozen",
        trial={**LIKE_SHOT, **constant(domain=1.0)},
    ),
    family="confidence",
)
class InformationMaximisation(PriorAware):
    """SHOT-IM: each prediction on the target becomes confident, and all classes are predicted.

    Args:
        context: Gives the stated shares of the target's classes.
        prior: What the mean prediction is compared with; see `PriorAware`.
        trust: In estimated shares, in [0, 1]; see `PriorAware`.
    """

    name = "im"

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        domain = information_maximisation(step.target.logits, prior=self.shares)
        return {"task": task_loss(step), "domain": domain}


@METHODS.register(
    "mcc",
    ranges={"temperature": {"log_uniform": [1.0, 5.0]}, **PRIOR_RANGES},
    published=Published(
        "Jin et al., 2020, https://arxiv.org/abs/1912.03699",
        params={"temperature": 2.5},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="confidence",
)
class Mcc(PriorAware):
    """MCC: classes are not confused with each other on the target.

    Args:
        context: Gives the stated shares of the target's classes.
        temperature: Divides the logits; above 1 the confident predictions count for less.
        prior: By what each class counts; see `PriorAware`.
        trust: In estimated shares, in [0, 1]; see `PriorAware`.
    """

    name = "mcc"

    def __init__(
        self, context: MethodContext, *, temperature: float = 2.5, prior: Prior = "given", trust: float = 0.5
    ) -> None:
        super().__init__(context, prior=prior, trust=trust)
        require_positive("mcc.temperature", temperature, usual=2.5)
        self.temperature = temperature

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        confusion = class_confusion(step.target.logits, temperature=self.temperature, prior=self.shares)
        return {"task": task_loss(step), "domain": confusion}


@METHODS.register(
    "bnm",
    ranges=PRIOR_RANGES,
    published=Published(
        "Cui et al., 2020, https://arxiv.org/abs/2003.12237", trial={**LIKE_CDAN, **constant(domain=1.0)}
    ),
    family="confidence",
)
class Bnm(PriorAware):
    """BNM: the matrix of predictions on the target has a large nuclear norm, so they are confident and diverse.

    Args:
        context: Gives the stated shares of the target's classes.
        prior: How diverse they are to be; see `PriorAware`.
        trust: In estimated shares, in [0, 1]; see `PriorAware`.
    """

    name = "bnm"

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": batch_nuclear_norm(step.target.logits, prior=self.shares)}


def _entropies(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)
