"""Methods for a target that lacks classes of the source: a source row counts by how present its class seems there.

Weights of rows have mean 1 in the joint batch of all ranks, so that losses keep their scale, and carry no gradient.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.adaptation.adversarial import domain_discriminator, reverse_gradient
from ray_tl.adaptation.conditional import entropy_weights, weighted_domain_loss
from ray_tl.adaptation.confidence import class_confusion, mean_entropy
from ray_tl.adaptation.loss_weights import dann_ramp
from ray_tl.adaptation.method import METHODS, AdaptationMethod, DomainOutputs, MethodContext, StepOutputs
from ray_tl.adaptation.numerics import finite_log_softmax, full_precision, require_below_one, require_positive
from ray_tl.adaptation.published import LIKE_CDAN, constant
from ray_tl.adaptation.reweighting import over_joint_mean, weighted_source_loss
from ray_tl.adaptation.target_prior import TRUST_RANGE, relative_shares, require_trust
from ray_tl.registry import Published

_LOWEST = -1e30  # of a logarithm: any factor times it is finite, and its exponential 0
_RANGES: Mapping[str, Mapping[str, object]] = {
    "hidden_width": {"choice": [64, 256, 1024]},
    "gamma": {"log_uniform": [1.0, 20.0]},
    "trust": TRUST_RANGE,
}


@full_precision
def balanced_domain_loss(
    source: Tensor, target: Tensor, source_weights: Tensor, target_weights: Tensor, *, share: float
) -> Tensor:
    """Binary cross-entropy of a domain classifier, for which part of the source belongs to the target too.

    Liang et al., "A Balanced and Robust Framework for Partial Domain Adaptation" (BA3US), 2020,
    https://arxiv.org/abs/2003.02541, "balanced adversarial alignment": a smaller target is filled up with source rows,
    fewer and fewer of them. With the source as class 1, means over the rows of this rank, which DDP averages:

        (mean w (softplus(-s) + share softplus(s)) + mean v softplus(t)) / (2 + share)

    Departure: every source row counts to the target with weight `share`, where the authors draw that share of rows
    anew; in expectation it is the same. Chance level is log 2.

    Args:
        source: Logits s for the source rows, [N].
        target: Logits t for the target rows, [M].
        source_weights: w, [N], of mean 1 over all ranks.
        target_weights: v, [M], of mean 1 over all ranks.
        share: Rows that fill up the target, relative to those of the source, at least 0.
    """
    of_source = (source_weights * (F.softplus(-source) + share * F.softplus(source))).mean()
    return (of_source + (target_weights * F.softplus(target)).mean()) / (2 + share)


@full_precision
def complement_confidence(logits: Tensor, weights: Tensor, *, labels: Tensor) -> Tensor:
    """How sure the network is among the wrong classes: their mean negative entropy over log(C - 1), in [-1, 0].

    Liang et al., 2020, https://arxiv.org/abs/2003.02541, "adaptive uncertainty suppression", with the exponent 1 of
    the authors' code: with q_j = p_j / (1 - p_y) over the classes j other than the label y, the mean of
    sum_j q_j log q_j / log(C - 1) with row weights ~ weight (1 - p_y), without gradient, of mean 1 over the joint
    batch. Where there are fewer than two wrong classes, or all rows are sure of the right one, it is 0.

    Args:
        logits: [N, C].
        weights: [N], at least 0.
        labels: int64 [N].
    """
    num_classes = logits.shape[1]
    if num_classes < 3:
        return 0 * logits.sum()
    is_true = F.one_hot(labels, num_classes).bool()
    doubt = -torch.expm1(finite_log_softmax(logits.detach())[is_true])
    others = logits.masked_fill(is_true, torch.finfo(logits.dtype).min)
    log_shares = F.log_softmax(others, dim=1).clamp_min(_LOWEST)
    confidence = (log_shares.exp() * log_shares).sum(dim=1) / math.log(num_classes - 1)
    return (over_joint_mean(weights.detach() * doubt) * confidence).mean()


class PresenceWeighted(AdaptationMethod):
    """A method in which a source row counts by the presence of its class in the target.

    Presence is the mean prediction of the network on the whole target at the start of each epoch, over its mean over
    classes; `trust` of it, and for the rest every class is as present as any other. In the first epoch, whose network
    has yet to learn, all are. If the trial states `target_shares`, these take the place of predictions. A class never
    counts less than `SMALLEST_RELATIVE_SHARE`: one that is wrongly thought absent goes on being learnt.

    Args:
        context: Gives the stated shares, and the number of classes.
        trust: In the predictions, in [0, 1]. A class that counts for little is learnt less and predicted less: wholly
            trusted, errors feed themselves where the target lacks no class.
    """

    name: ClassVar[str]
    presence: Tensor

    def __init__(self, context: MethodContext, *, trust: float) -> None:
        super().__init__(context)
        require_trust(f"{self.name}.trust", trust, usual=1.0)
        self.trust = trust
        stated = context.target_shares
        self.needs_domains = ("target",) if stated is None else ()
        presence = torch.ones(context.num_classes) if stated is None else relative_shares(torch.tensor(stated))
        self.register_buffer("presence", presence, persistent=False)

    @torch.no_grad()
    def begin_epoch(self, domains: Mapping[str, DomainOutputs], progress: float) -> None:
        if progress > 0 and self.needs_domains:
            predictions = F.softmax(domains["target"].logits.double(), dim=1)
            presence = relative_shares(predictions.mean(dim=0)).to(self.presence)
            self.presence = torch.ones_like(presence).lerp(presence, self.trust)

    def source_weights(self, step: StepOutputs) -> Tensor:
        """How much each source row counts, [N], with mean 1 over all ranks; of a mixture by its shares of classes."""
        labels = step.labels
        rows = labels.to(self.presence) @ self.presence if labels.is_floating_point() else self.presence[labels]
        return over_joint_mean(rows)


@METHODS.register(
    "pada",
    ranges=_RANGES,
    published=Published(
        "Cao et al., 2018, https://arxiv.org/abs/1808.04205, and the authors' code",
        params={"trust": 1.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="adversarial",
)
class Pada(PresenceWeighted):
    """PADA: DANN in which source classes that seem absent from the target count for little, also in the task.

    Cao et al., "Partial Adversarial Domain Adaptation", 2018, https://arxiv.org/abs/1808.04205: with the class weights
    gamma = mean prediction on the target, the task loss of a source row and its loss of the discriminator are
    multiplied by gamma of its label. Departures: the weights are divided by their mean in the joint batch, where the
    paper divides by the largest gamma, by which both losses shrink as classes fade (the authors' code does as here in
    the task alone); they are set anew in each epoch, not every 500 steps. As in DANN, the strength
    2 / (1 + exp(-gamma p)) - 1 acts inside the reversal.

    Args:
        context: Gives the width of the features and the number of classes.
        hidden_width: Width of the discriminator's two hidden layers, >= 1.
        gamma: How fast the strength of the reversal rises with progress, above 0.
        trust: In the predictions by which classes count, in [0, 1]; the paper's is 1. See `PresenceWeighted`.
    """

    aligns_features = True
    name = "pada"

    def __init__(
        self, context: MethodContext, *, hidden_width: int = 256, gamma: float = 10.0, trust: float = 1.0
    ) -> None:
        super().__init__(context, trust=trust)
        require_positive("pada.hidden_width", hidden_width, usual=256)
        require_positive("pada.gamma", gamma, usual=10.0)
        self.gamma = gamma
        self.discriminator = domain_discriminator(context.feature_dim, hidden_width)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        weights = self.source_weights(step)
        features = torch.cat([step.source.features, step.target.features])
        reversed_features = reverse_gradient(features, dann_ramp(step.progress, self.gamma))
        of_source, of_target = self.discriminator(reversed_features).squeeze(1).tensor_split([len(weights)])
        domain = weighted_domain_loss(of_source, of_target, weights, torch.ones_like(of_target))
        return {"task": weighted_source_loss(step, weights), "domain": domain}


@METHODS.register(
    "ba3us",
    ranges={
        **_RANGES,
        "augmentation": {"uniform": [0.0, 0.5]},
        "entropy_weight": {"log_uniform": [0.01, 1.0]},
        "complement_weight": {"log_uniform": [0.1, 10.0]},
    },
    published=Published(
        "Liang et al., 2020, https://arxiv.org/abs/2003.02541; there the share of source rows among the target falls",
        params={"trust": 1.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="adversarial",
)
class Ba3us(PresenceWeighted):
    """BA3US: PADA whose target is filled up with source rows at first, and that is unsure among the wrong classes.

    Liang et al., "A Balanced and Robust Framework for Partial Domain Adaptation", 2020,
    https://arxiv.org/abs/2003.02541. The loss `domain` is

        balanced_domain_loss with the share augmentation (1 - progress)
        + entropy_weight mean_entropy(target) + complement_weight complement_confidence(source)

    Rows of the discriminator also weigh 1 + exp(-H), as in CDAN+E; see `entropy_weights`. Departures: no gradient flows
    through weights; see `balanced_domain_loss` for the rows that fill up the target.

    Args:
        context: Gives the width of the features and the number of classes.
        hidden_width: Width of the discriminator's two hidden layers, >= 1.
        gamma: How fast the strength of the reversal rises with progress, above 0.
        augmentation: 1 / mu of the paper: share of the source rows that fill up the target at first, in [0, 1).
        entropy_weight: Of the mean entropy of the predictions on the target, above 0.
        complement_weight: Of the confidence among wrong classes of the source, above 0.
        trust: In the predictions by which classes count, in [0, 1]; the paper's is 1. See `PresenceWeighted`.
    """

    aligns_features = True
    name = "ba3us"
    takes_mixed_source = False  # a mixture has no wrong classes

    def __init__(
        self,
        context: MethodContext,
        *,
        hidden_width: int = 256,
        gamma: float = 10.0,
        augmentation: float = 0.25,
        entropy_weight: float = 0.1,
        complement_weight: float = 1.0,
        trust: float = 1.0,
    ) -> None:
        super().__init__(context, trust=trust)
        require_positive("ba3us.hidden_width", hidden_width, usual=256)
        require_positive("ba3us.gamma", gamma, usual=10.0)
        require_below_one("ba3us.augmentation", augmentation, usual=0.25)
        require_positive("ba3us.entropy_weight", entropy_weight, usual=0.1)
        require_positive("ba3us.complement_weight", complement_weight, usual=1.0)
        self.gamma, self.augmentation = gamma, augmentation
        self.entropy_weight, self.complement_weight = entropy_weight, complement_weight
        self.discriminator = domain_discriminator(context.feature_dim, hidden_width)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        weights = self.source_weights(step)
        complement = complement_confidence(step.source.logits, weights, labels=step.labels)
        entropy = mean_entropy(step.target.logits)
        domain = self._domain_loss(step, weights) + self.entropy_weight * entropy + self.complement_weight * complement
        return {"task": weighted_source_loss(step, weights), "domain": domain}

    def _domain_loss(self, step: StepOutputs, weights: Tensor) -> Tensor:
        features = torch.cat([step.source.features, step.target.features])
        reversed_features = reverse_gradient(features, dann_ramp(step.progress, self.gamma))
        of_source, of_target = self.discriminator(reversed_features).squeeze(1).tensor_split([len(weights)])
        certain, target_certain = (_certainty(logits) for logits in (step.source.logits, step.target.logits))
        share = self.augmentation * (1 - step.progress)
        return balanced_domain_loss(
            of_source, of_target, over_joint_mean(weights * certain), target_certain, share=share
        )


@METHODS.register(
    "partial_mcc",
    ranges={"temperature": {"log_uniform": [1.0, 5.0]}, "trust": TRUST_RANGE},
    published=Published(
        "Jin et al., 2020, https://arxiv.org/abs/1912.03699, of MCC; the combination is ours",
        params={"temperature": 2.5, "trust": 1.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="confidence",
)
class PartialMcc(PresenceWeighted):
    """MCC in which classes that seem absent from the target count for little, in the confusion and in the task.

    Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", 2020, https://arxiv.org/abs/1912.03699, with
    the class weights of PADA (Cao et al., 2018, https://arxiv.org/abs/1808.04205) on the source rows of the task, and
    as the prior of `class_confusion`. The combination is ours.

    Args:
        context: Gives the number of classes.
        temperature: Divides the logits; above 1 the confident predictions count for less.
        trust: In the predictions by which classes count, in [0, 1]; see `PresenceWeighted`.
    """

    name = "partial_mcc"

    def __init__(self, context: MethodContext, *, temperature: float = 2.5, trust: float = 1.0) -> None:
        super().__init__(context, trust=trust)
        require_positive("partial_mcc.temperature", temperature, usual=2.5)
        self.temperature = temperature

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        confusion = class_confusion(step.target.logits, temperature=self.temperature, prior=self.presence)
        return {"task": weighted_source_loss(step, self.source_weights(step)), "domain": confusion}


@full_precision
def _certainty(logits: Tensor) -> Tensor:
    return entropy_weights(F.softmax(logits.detach(), dim=1))
