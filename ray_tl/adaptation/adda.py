"""ADDA: a target encoder of its own, trained against a discriminator, beside a source encoder that stays as it is."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ray_tl.adaptation.adversarial import domain_classification_loss, domain_discriminator
from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, View, task_loss
from ray_tl.adaptation.numerics import full_precision, require_below_one, require_positive
from ray_tl.adaptation.published import DIGITS, constant
from ray_tl.adaptation.teachers import Teacher
from ray_tl.collectives import sum_over_ranks, world_size
from ray_tl.registry import Published

STRONG = 0.6


@full_precision
def inverted_label_loss(target_logits: Tensor) -> Tensor:
    """Cross-entropy of the target's domain logits [M] with the label of the source: -mean log sigmoid(logit).

    Tzeng et al., "Adversarial Discriminative Domain Adaptation", 2017, https://arxiv.org/abs/1702.05464, eq. 9.
    """
    return F.softplus(-target_logits).mean()


@torch.no_grad()
def joint_accuracy(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Share of the rows of all ranks whose domain a discriminator tells rightly, each domain weighing one half.

    Args:
        source_logits: [N], above 0 where the row is taken for one of the source.
        target_logits: [M].
    """
    right = ((source_logits > 0).double().mean() + (target_logits <= 0).double().mean()) / 2
    return sum_over_ranks(right) / world_size()


@METHODS.register(
    "adda",
    ranges={
        "hidden_width": {"choice": [64, 256, 1024]},
        "start": {"uniform": [0.2, 0.6]},
        "rate": {"log_uniform": [0.03, 1.0]},
    },
    published=Published(
        "Tzeng et al., 2017, https://arxiv.org/abs/1702.05464, digits; when it begins and the rate from then on are "
        "ours",
        params={"hidden_width": 500, "start": 0.4, "rate": 0.1},
        trial={**DIGITS, **constant(domain=1.0)},
    ),
    family="adversarial",
)
class Adda(AdaptationMethod):
    """ADDA: from `start` on, the network learns to give target features like those of the source network it was.

    Tzeng et al., 2017, https://arxiv.org/abs/1702.05464, sec. 4 and eq. 9. Before `start` the network learns the
    source; then a copy of it becomes the source encoder, head and copy stay as they are, and the optimiser begins anew:
    with the moments of source training it lets the encoder run away before the discriminator has learned anything.
    Encoder and discriminator learn in one step, each from its own loss. Departures: batch normalisation of the target
    encoder sees both domains, unless `domain_norm` is `separate`; and the encoder moves only in steps in which the
    discriminator is right about `STRONG` of the rows, as in pytorch-adapt.

    Args:
        context: Gives the width of the features.
        hidden_width: Width of the discriminator's two hidden layers, >= 1.
        start: Progress at which adaptation begins, at least 0 and below 1.
        rate: Learning rates from then on, relative to before, above 0. At 1 and a high rate the
            encoder outruns the discriminator, and all is lost.
    """

    aligns_features = True
    copies_network = True
    source_encoder: Teacher

    def __init__(
        self, context: MethodContext, *, hidden_width: int = 256, start: float = 0.4, rate: float = 0.1
    ) -> None:
        super().__init__(context)
        require_positive("adda.hidden_width", hidden_width, usual=256)
        require_below_one("adda.start", start, usual=0.4)
        require_positive("adda.rate", rate, usual=0.1)
        self.start = self.restart = start
        self.restart_rate = rate
        self._strong = torch.tensor(True)
        self.discriminator = domain_discriminator(context.feature_dim, hidden_width)

    def attach(self, model: nn.Module) -> None:
        self.source_encoder = Teacher(model)

    def needs_at(self, progress: float) -> tuple[View, ...]:
        return ("source",) if progress < self.start else ("source", "target")

    def idle_losses(self, progress: float) -> tuple[str, ...]:
        # Where the domains can't be told apart any more, neither counts.
        return ("domain",) if progress < self.start else ("task", "domain")

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        if step.progress < self.start:
            # DDP waits for the gradient of every parameter.
            idle = 0 * self.discriminator(step.source.features.detach()).sum()
            return {"task": task_loss(step), "domain": idle}
        source = self.source_encoder.source_features(step)
        target = step.target.features
        judged = self._judge(source), self._judge(target.detach())
        told_apart = domain_classification_loss(*judged)
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        mistaken = inverted_label_loss(functional_call(self.discriminator, fixed, (target,)).squeeze(1))
        self._strong = joint_accuracy(*judged) >= STRONG
        return {"task": 0 * step.source.logits.sum(), "domain": told_apart + mistaken}

    def before_step(self, model: nn.Module, progress: float) -> None:
        if progress < self.start:
            return
        still = model.get_submodule("head") if self._strong else model
        for value in still.parameters():
            value.grad = None

    def after_step(self, model: nn.Module, progress: float) -> None:
        if progress < self.start:
            self.source_encoder.follow(model, decay=0.0)

    def _judge(self, features: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(features).squeeze(1)
        return logits
