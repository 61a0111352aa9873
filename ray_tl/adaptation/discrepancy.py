"""Methods in which auxiliary classifiers look for disagreement on the target, and the features leave none.

All losses are means over rows of one domain: DDP's average over ranks is that of the joined batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.adversarial import reverse_gradient
from ray_tl.adaptation.loss_weights import dann_ramp
from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision, require_positive
from ray_tl.adaptation.published import DIGITS, LIKE_CDAN, constant
from ray_tl.errors import InvalidInput
from ray_tl.registry import Published

RAMP_GAMMA = 10.0


@full_precision
def margin_disparity(
    source_logits: Tensor, target_logits: Tensor, source_auxiliary: Tensor, target_auxiliary: Tensor, *, margin: float
) -> Tensor:
    """How well an auxiliary head agrees with the main one on the source and disagrees on the target; to be minimised.

    Zhang et al., "Bridging Theory and Algorithm for Domain Adaptation" (MDD), 2019, https://arxiv.org/abs/1904.05801,
    section 4: margin * mean of -log q_s[y_s] plus mean of -log(1 - q_t[y_t]), with q the softmax of the auxiliary
    head and y the argmax of the main one, through which no gradient flows. This is the paper's discrepancy negated.
    The second term is a difference of log-sums, which stays finite where 1 - q underflows.

    Args:
        source_logits: Of the main head, [N, C], C >= 2.
        target_logits: Of the main head, [M, C].
        source_auxiliary: Of the auxiliary head, [N, C].
        target_auxiliary: Of the auxiliary head, [M, C].
        margin: The paper's gamma = exp(rho), above 0.

    Raises:
        InvalidInput: If there are fewer than two classes.
    """
    _require_two_classes(source_logits.shape[1])
    agreement = F.cross_entropy(source_auxiliary, source_logits.argmax(dim=1))
    is_predicted = F.one_hot(target_logits.argmax(dim=1), target_logits.shape[1]).bool()
    log_sum_of_others = target_auxiliary.masked_fill(is_predicted, -torch.inf).logsumexp(dim=1)
    disagreement = (target_auxiliary.logsumexp(dim=1) - log_sum_of_others).mean()
    return margin * agreement + disagreement


@full_precision
def classifier_discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of two classifiers' probabilities, in [0, 2 / C]; gradients flow to both.

    Saito et al., "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation" (MCD), 2018,
    https://arxiv.org/abs/1712.02560, "discrepancy loss", averaged over rows. Where both agree exactly the gradient
    is 0.

    Args:
        first: Logits, [N, C].
        second: Logits, [N, C].
    """
    return (F.softmax(first, dim=1) - F.softmax(second, dim=1)).abs().mean()


@METHODS.register(
    "mdd",
    ranges={
        "hidden_width": {"choice": [64, 256, 1024]},
        "margin": {"uniform": [1.0, 6.0]},
        "strength": {"log_uniform": [0.01, 1.0]},
    },
    published=Published(
        "Zhang et al., 2019, https://arxiv.org/abs/1904.05801 and the authors' code",
        params={"hidden_width": 1024, "margin": 4.0, "strength": 0.1},
        trial={
            **LIKE_CDAN,
            "adaptor": {"bottleneck": {"width": 1024, "dropout": 0.5}},
            "optimizer": {"sgd": {"lr": 4e-4, "momentum": 0.9, "weight_decay": 5e-4}},
            "batch_size": 32,
            **constant(domain=1.0),
        },
    ),
    family="adversarial",
)
class Mdd(AdaptationMethod):
    """MDD: no auxiliary classifier that agrees with the main one on the source disagrees with it on the target.

    Zhang et al., "Bridging Theory and Algorithm for Domain Adaptation", 2019, https://arxiv.org/abs/1904.05801,
    section 4. The reversal acts on what enters the auxiliary classifier: the features feel `strength` times
    2 / (1 + exp(-10 p)) - 1, with p = progress, and the auxiliary classifier always learns at full strength.
    Departures from the authors' code: its ramp counts 1000 steps, not progress; no dropout in the classifier.

    Args:
        context: Gives the width of the features and the number of classes, at least two.
        hidden_width: Width of the auxiliary classifier's hidden layer, >= 1.
        margin: The paper's gamma, the weight of the source, above 0.
        strength: What the strength of the reversal rises to, above 0.

    Raises:
        InvalidInput: If a parameter breaks its rule, or there are fewer than two classes.
    """

    def __init__(
        self, context: MethodContext, *, hidden_width: int = 256, margin: float = 4.0, strength: float = 0.1
    ) -> None:
        super().__init__(context)
        require_positive("mdd.hidden_width", hidden_width, usual=256)
        require_positive("mdd.margin", margin, usual=4.0)
        require_positive("mdd.strength", strength, usual=0.1)
        _require_two_classes(context.num_classes)
        self.margin, self.strength = margin, strength
        self.auxiliary = _classifier(context, hidden_width)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        features = torch.cat([step.source.features, step.target.features])
        strength = self.strength * dann_ramp(step.progress, RAMP_GAMMA)
        auxiliary = self.auxiliary(reverse_gradient(features, strength))
        source, target = auxiliary.split([len(step.source.features), len(step.target.features)])
        domain = margin_disparity(step.source.logits, step.target.logits, source, target, margin=self.margin)
        return {"task": task_loss(step), "domain": domain}


@METHODS.register(
    "mcd",
    ranges={"hidden_width": {"choice": [64, 256, 1024]}, "strength": {"log_uniform": [0.5, 16.0]}},
    published=Published(
        "Saito et al., 2018, https://arxiv.org/abs/1712.02560, digits, with four updates of the features a step",
        params={"strength": 4.0},
        trial={**DIGITS, **constant(domain=1.0)},
    ),
    family="adversarial",
)
class Mcd(AdaptationMethod):
    """MCD: two classifiers that learn the source and disagree on the target where they can; the features stop them.

    Saito et al., "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", 2018,
    https://arxiv.org/abs/1712.02560, steps A to C. The domain loss is the cross-entropy of both auxiliary
    classifiers on the source (steps A and B) less their discrepancy on the target (step B), with a reversal of the
    target features, so that these lessen the discrepancy (step C). Departures: one step replaces the three in turn,
    `strength` standing for the paper's number of updates in step C, of which it takes four; the classifiers have no
    dropout. The network's own head is what serves, so both classifiers are auxiliary; the task loss trains the head on
    the same features, as a third classifier of the source that never disagrees on purpose. The features learn the
    source from all three.

    Args:
        context: Gives the width of the features and the number of classes.
        hidden_width: Width of each auxiliary classifier's hidden layer, >= 1.
        strength: Of the reversal: how hard the features work against the disagreement, above 0.
    """

    def __init__(self, context: MethodContext, *, hidden_width: int = 256, strength: float = 4.0) -> None:
        super().__init__(context)
        require_positive("mcd.hidden_width", hidden_width, usual=256)
        require_positive("mcd.strength", strength, usual=4.0)
        self.strength = strength
        self.first = _classifier(context, hidden_width)
        self.second = _classifier(context, hidden_width)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        source, target = step.source.features, reverse_gradient(step.target.features, self.strength)
        learning = F.cross_entropy(self.first(source), step.labels) + F.cross_entropy(self.second(source), step.labels)
        disagreement = classifier_discrepancy(self.first(target), self.second(target))
        return {"task": task_loss(step), "domain": learning - disagreement}


def _require_two_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise InvalidInput(
            f"mdd: num_classes={num_classes} leaves nothing to disagree about; it must be at least 2, or choose dann."
        )


def _classifier(context: MethodContext, hidden_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(context.feature_dim, hidden_width), nn.ReLU(), nn.Linear(hidden_width, context.num_classes)
    )
