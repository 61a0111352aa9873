"""Methods that train on the network's own labels of the target.

Labels carry no gradient. A row that is not confident enough has label `UNSURE`, which costs nothing, and every loss is
divided by the number of all rows, as in FixMatch: a step that chooses few rows moves little, one that chooses none
has loss 0 with gradient 0, and a mean over the rows of one rank is averaged by DDP to that of the joined batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.adaptation.method import METHODS, AdaptationMethod, DomainOutputs, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import finite_log_softmax, full_precision, require_threshold
from ray_tl.adaptation.published import LIKE_CDAN, LIKE_SHOT, constant
from ray_tl.collectives import sum_over_ranks
from ray_tl.registry import Published

UNSURE = -100


@full_precision
def confident_labels(logits: Tensor, *, threshold: float) -> Tensor:
    """The most probable class of each row where its probability is at least `threshold`, else `UNSURE`; int64 [N].

    Args:
        logits: [N, C].
        threshold: Above 0 and at most 1; up to 1 / C it chooses every row.
    """
    confidences, labels = logits.softmax(dim=1).max(dim=1)
    return torch.where(confidences >= threshold, labels, UNSURE)


@full_precision
def pseudo_label_loss(logits: Tensor, *, threshold: float) -> Tensor:
    """Cross-entropy with the confident rows' own labels, over the number of all rows of this rank.

    Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", 2013,
    https://www.researchgate.net/publication/280581078, second term of eq. 15. Departures: the threshold, which the
    paper does not have, is that of FixMatch; its ramp alpha(t) is left to the loss weighting.

    Args:
        logits: Of the target, [N, C]; the labels carry no gradient.
        threshold: Above 0 and at most 1.
    """
    return _losses(logits, confident_labels(logits, threshold=threshold)).mean()


@full_precision
def balanced_pseudo_label_loss(logits: Tensor, *, threshold: float) -> Tensor:
    """`pseudo_label_loss` in which each class that was chosen on any rank weighs the same.

    A chosen row of class k weighs n / (K n_k) with n chosen rows over all ranks, n_k of them of class k, and K classes
    among them: King and Zeng, "Logistic Regression in Rare Events Data", 2001,
    https://doi.org/10.1093/oxfordjournals.pan.a004868, as scikit-learn's `class_weight="balanced"`. The weights of a
    batch sum to n, with balance or without.

    Args:
        logits: Of the target, [N, C]; labels and weights carry no gradient.
        threshold: Above 0 and at most 1.
    """
    labels = confident_labels(logits, threshold=threshold)
    weights = _class_weights(labels, logits.shape[1]).to(logits.dtype)
    return (_losses(logits, labels) * weights[labels.clamp_min(0)]).mean()


@full_precision
def fixmatch_loss(weak: Tensor, strong: Tensor, *, threshold: float) -> Tensor:
    """Cross-entropy of the strong view with the labels of the weak one, over the number of all rows of this rank.

    Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", 2020,
    https://arxiv.org/abs/2001.07685, eq. 4.

    Args:
        weak: Logits of the target, [N, C]; without gradient.
        strong: Logits of the same rows in a strong view, [N, C].
        threshold: Above 0 and at most 1.
    """
    return _losses(strong, confident_labels(weak, threshold=threshold)).mean()


@torch.no_grad()
@full_precision
def centroid_labels(features: Tensor, logits: Tensor) -> Tensor:
    """The class whose centroid is nearest to each row by cosine, int64 [N].

    Liang et al., "Do We Really Need to Access the Source Data?" (SHOT), 2020, https://arxiv.org/abs/2002.08546:
    centroids are means weighted by the predictions (eq. 4), rows take the class of the nearest (eq. 5), and both are
    repeated once with these labels as weights (eq. 6). Where eq. 6 is 0 / 0, for a class that no row took, the
    centroid stays that of eq. 4. A row of zeros is equally near to all centroids and takes class 0.

    Args:
        features: [N, D], of the whole domain.
        logits: [N, C].
    """
    # A softmax over rows of the log-probabilities is each row's share in the mean, even where probabilities underflow.
    soft_means = finite_log_softmax(logits).softmax(dim=0).T @ features
    taken = F.one_hot(_nearest(features, soft_means), logits.shape[1]).to(features.dtype)
    counts = taken.sum(dim=0)[:, None]
    means = taken.T @ features / counts.clamp_min(1)
    return _nearest(features, torch.where(counts > 0, means, soft_means))


@METHODS.register(
    "pseudo_label",
    ranges={"threshold": {"uniform": [0.5, 1.0]}, "class_balanced": {"choice": [False, True]}},
    published=Published(
        "Lee, 2013: the rise to weight 3; balance from Zou et al., 2018, https://arxiv.org/abs/1810.07911; the "
        "threshold is ours",
        params={"threshold": 0.8, "class_balanced": True},
        trial={**LIKE_CDAN, "loss_weighting": {"delayed": {"domain": 3.0, "start": 0.1, "ramp": 0.5}}},
    ),
    family="confidence",
)
class PseudoLabel(AdaptationMethod):
    """Pseudo-Label: the network's own confident predictions on the target become its labels there.

    Args:
        context: Not used.
        threshold: Least confidence of a row that is learned from, above 0 and at most 1.
        class_balanced: Whether the chosen classes weigh the same, however many rows each has (Zou et al., 2018,
            https://arxiv.org/abs/1810.07911). Without it a class that is chosen a little more often soon takes all.
    """

    def __init__(self, context: MethodContext, *, threshold: float = 0.8, class_balanced: bool = True) -> None:
        super().__init__(context)
        require_threshold("pseudo_label.threshold", threshold, usual=0.8)
        self.threshold = threshold
        self._loss = balanced_pseudo_label_loss if class_balanced else pseudo_label_loss

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": self._loss(step.target.logits, threshold=self.threshold)}


@METHODS.register(
    "iterated_pseudo_label",
    published=Published(
        "Liang et al., 2020, https://arxiv.org/abs/2002.08546: weight 0.3",
        trial={**LIKE_SHOT, **constant(domain=0.3)},
    ),
    family="confidence",
)
class IteratedPseudoLabel(AdaptationMethod):
    """SHOT's labels: before each epoch every target row takes the class of the nearest centroid, and learns it.

    Liang et al., 2020, https://arxiv.org/abs/2002.08546, last term of eq. 7, which is a mean over all rows. The first
    epoch learns the source alone, as the paper's network has before it meets the target: centroids of a head that has
    learned nothing are labels at random, which the next epochs confirm. Departures: the source stays, instead of a
    frozen head; for SHOT's other two terms choose `im`.
    """

    needs_domains = ("target",)
    _labels: Tensor | None = None

    def begin_epoch(self, domains: Mapping[str, DomainOutputs], progress: float) -> None:
        target = domains["target"]
        self._labels = centroid_labels(target.features, target.logits) if progress > 0 else None

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        if self._labels is None:
            return {"task": task_loss(step), "domain": 0 * step.target.logits.sum()}
        assert step.target.rows is not None
        return {"task": task_loss(step), "domain": F.cross_entropy(step.target.logits, self._labels[step.target.rows])}


@METHODS.register(
    "fixmatch",
    ranges={"threshold": {"uniform": [0.5, 1.0]}},
    published=Published(
        "Sohn et al., 2020, https://arxiv.org/abs/2001.07685",
        params={"threshold": 0.95},
        trial={
            "freeze_depth": "everything",
            "optimizer": {"sgd": {"lr": 0.03, "momentum": 0.9, "weight_decay": 5e-4}},
            "lr_schedule": "cosine",
            "batch_size": 64,
            **constant(consistency=1.0),
        },
    ),
    family="confidence",
)
class FixMatch(AdaptationMethod):
    """FixMatch: confident predictions on the target are the labels of its strongly changed view.

    Args:
        context: Not used.
        threshold: Least confidence of a row that is learned from, above 0 and at most 1.
    """

    needs = ("source", "target", "strong")
    loss_names = ("task", "consistency")

    def __init__(self, context: MethodContext, *, threshold: float = 0.95) -> None:
        super().__init__(context)
        require_threshold("fixmatch.threshold", threshold, usual=0.95)
        self.threshold = threshold

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        consistency = fixmatch_loss(step.target.logits, step.strong.logits, threshold=self.threshold)
        return {"task": task_loss(step), "consistency": consistency}


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=UNSURE)


def _class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """n / (K n_k) for each class over all ranks, float64 [C]; what it says of a class without rows has no meaning."""
    classes = torch.arange(num_classes, device=labels.device)
    counts = sum_over_ranks((labels[:, None] == classes).sum(dim=0)).double()
    num_present = (counts > 0).sum()
    return counts.sum() / (num_present * counts).clamp_min(1)


def _nearest(features: Tensor, centroids: Tensor) -> Tensor:
    return (F.normalize(features, dim=1) @ F.normalize(centroids, dim=1).T).argmax(dim=1)
