"""Everything that a trial trains, as one module: the one thing wrapped in DDP and saved."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.loss_weights import LossWeights
from ray_tl.adaptation.method import AdaptationMethod, Outputs, StepOutputs, View
from ray_tl.models.domain_norm import domain_of
from ray_tl.models.transfer_model import TransferModel
from ray_tl.training.precision import full_precision


class AdaptationTask(nn.Module):
    """Network, adaptation method and loss weights; one `forward` gives the loss of a step.

    All views go through the network as one batch, so that normalisation sees both domains.

    Args:
        model: Backbone and head.
        method: Its learned parts, such as a discriminator, are trained with the network.
        loss_weights: Trained with the network too, if they learn.
        target_label_weight: Share in the task loss of labelled target examples, in [0, 1], if a method does not name
            them as its own need and they are given: "S+T" of Saito et al., "Semi-supervised Domain Adaptation via
            Minimax Entropy", 2019, https://arxiv.org/abs/1904.06487.

    Attributes:
        autocast: Around the network, in training; losses are computed in full precision.
    """

    def __init__(
        self,
        model: TransferModel,
        method: AdaptationMethod,
        loss_weights: LossWeights,
        target_label_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.loss_weights = loss_weights
        self.target_label_weight = target_label_weight
        self.autocast: Callable[[], AbstractContextManager] = nullcontext
        method.attach(model)

    def forward(
        self,
        views: Mapping[View, Tensor],
        rows: Mapping[View, Tensor],
        labels: Tensor,
        start: int,
        progress: float,
        gap: float,
        target_labels: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """The weighted loss of one step, the named losses, and the weights used.

        Args:
            views: Images, or activations before stage `start`, [N, ...] for each view that the method needs.
            rows: Number of each example in its domain, [N] for each view.
            labels: Of the source rows, [N], int64.
            start: Stage at which the inputs enter the backbone; 0 for images.
            progress: In [0, 1] of full fidelity.
            gap: Between source and target, after the last epoch; see `EpochReport`.
            target_labels: Of the rows of the view `target_labelled`, if it is there, [N], int64.
        """
        domains = [domain_of(view) for view in views]
        with self.autocast() if self.training else nullcontext():
            features, logits = self.model(torch.cat(list(views.values())), start, domains)
        features, logits = full_precision(features), full_precision(logits)
        sizes = [len(view) for view in views.values()]
        parts = zip(views, features.split(sizes), logits.split(sizes), strict=True)
        outputs = {name: Outputs(part, scores, views[name], rows[name]) for name, part, scores in parts}
        step = StepOutputs(outputs, labels, progress, start, target_labels)
        losses = self.method.losses(step)
        if target_labels is not None and "target_labelled" not in self.method.needs:
            given = F.cross_entropy(step.target_labelled.logits, target_labels)
            losses["task"] = torch.lerp(losses["task"], given, self.target_label_weight)
        total, weights = self.loss_weights.combine(losses, progress, gap)
        return total, losses, weights
