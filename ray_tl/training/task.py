"""Everything that a trial trains, as one module: the one thing wrapped in DDP and saved."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ray_tl.adaptation.loss_weights import LossWeights
from ray_tl.adaptation.method import AdaptationMethod, Outputs, StepOutputs, View
from ray_tl.adaptation.target_labels import target_task_loss
from ray_tl.models.domain_norm import domain_of
from ray_tl.models.transfer_model import TransferModel
from ray_tl.training.multi_task import AUXILIARY, Auxiliary
from ray_tl.training.precision import widened
from ray_tl.training.regularisers import REGULARISER, Activations, Pass, Regulariser, recorded


class StepLosses(NamedTuple):
    """What one step minimises.

    Attributes:
        total: The weighted sum, with gradient.
        named: Scalars by name; the regulariser's among them.
        weights: That were used, by the same names.
        of_target: What labelled target examples contribute to the loss `task`; `None` if it can't be told apart.
    """

    total: Tensor
    named: dict[str, Tensor]
    weights: dict[str, float]
    of_target: Tensor | None = None

    @property
    def regulariser(self) -> Tensor | None:
        return self.named.get(REGULARISER)

    def times(self, factor: Tensor | float) -> "StepLosses":
        """All of it multiplied by a number, and so all gradients."""
        named = {name: loss * factor for name, loss in self.named.items()}
        of_target = None if self.of_target is None else self.of_target * factor
        return StepLosses(self.total * factor, named, self.weights, of_target)

    def parts(self) -> list[Tensor]:
        """All but the regulariser, as terms of the total: task of the target, task of the source, and the rest."""
        task = self.weights["task"] * self.named["task"]
        rest = self.total - task if self.regulariser is None else self.total - task - self.regulariser
        if self.of_target is None:
            return [task, rest]
        of_target = self.weights["task"] * self.of_target
        return [of_target, task - of_target, rest]


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
        label_smoothing: Of the labels in the task loss, in [0, 1).
        regulariser: Its loss joins the others with weight 1; `None` for none.
        auxiliary: Another task, with a head of its own; `None` for none.

    Attributes:
        autocast: Around the network, in training; losses are computed in full precision.
    """

    def __init__(
        self,
        model: TransferModel,
        method: AdaptationMethod,
        loss_weights: LossWeights,
        target_label_weight: float = 0.5,
        label_smoothing: float = 0.0,
        regulariser: Regulariser | None = None,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.loss_weights = loss_weights
        self.target_label_weight = target_label_weight
        self.label_smoothing = label_smoothing
        self.regulariser = regulariser
        self.auxiliary = auxiliary
        self.autocast: Callable[[], AbstractContextManager] = nullcontext
        method.attach(model)
        if regulariser is not None:
            regulariser.attach(model)

    def forward(
        self,
        views: Mapping[View, Tensor],
        rows: Mapping[View, Tensor],
        labels: Tensor,
        start: int,
        progress: float,
        gap: float,
        target_labels: Tensor | None = None,
        auxiliary_labels: Tensor | None = None,
        adapts: bool = True,
        class_weights: Tensor | None = None,
    ) -> StepLosses:
        """The losses of one step.

        Args:
            views: Images, or activations before stage `start`, [N, ...] for each view that the method needs.
            rows: Number of each example in its domain, [N] for each view.
            labels: Of the source rows, [N], int64; of mixtures the share of each class, [N, C].
            start: Stage at which the inputs enter the backbone; 0 for images.
            progress: In [0, 1] of full fidelity.
            gap: Between source and target, after the last epoch; see `EpochReport`.
            target_labels: Of the rows of the view `target_labelled`, if it is there, [N], int64.
            auxiliary_labels: Of the rows of the view `auxiliary`, [N], int64; given if there is another task.
            adapts: Whether other losses of the method than `task` count; else their weight is 0.
            class_weights: Of each class in the task loss on the source, [C]; `None` where all weigh 1.
        """
        domains = [domain_of(view) for view in views]
        with self._watched() as stages, self.autocast() if self.training else nullcontext():
            features, logits = self.model(torch.cat(list(views.values())), start, domains)
        features, logits = widened(features), widened(logits)
        sizes = [len(view) for view in views.values()]
        parts = zip(views, features.split(sizes), logits.split(sizes), strict=True)
        outputs = {name: Outputs(part, scores, views[name], rows[name]) for name, part, scores in parts}
        step = StepOutputs(outputs, labels, progress, start, target_labels, self.label_smoothing, class_weights)
        losses = self.method.losses(step)
        of_target = self.method.target_task(step)
        if target_labels is not None and "target_labelled" not in self.method.needs:
            given = target_task_loss(step)
            losses["task"] = torch.lerp(losses["task"], given, self.target_label_weight)
            of_target = self.target_label_weight * given
        total, weights = self._combined(losses, progress, gap, adapts)
        if self.auxiliary is not None and auxiliary_labels is not None:
            losses[AUXILIARY] = self.auxiliary(outputs["auxiliary"].features, auxiliary_labels)
            weights[AUXILIARY] = self.auxiliary.weight
            total = total + weights[AUXILIARY] * losses[AUXILIARY]
        if self.regulariser is not None:
            losses[REGULARISER] = self.regulariser.loss(self.model, Pass(features, stages))
            weights[REGULARISER] = 1.0
            total = total + losses[REGULARISER]
        return StepLosses(total, losses, weights, of_target)

    def _combined(
        self, losses: dict[str, Tensor], progress: float, gap: float, adapts: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the method's losses; of the task alone if the others do not count."""
        if adapts:
            return self.loss_weights.combine(losses, progress, gap)
        total, weights = self.loss_weights.combine({"task": losses["task"]}, progress, gap)
        # What has weight 0 stays in the graph: DDP waits for the gradient of every parameter.
        idle = torch.stack([0 * loss for loss in losses.values()]).sum()
        return total + idle, {name: weights.get(name, 0.0) for name in losses}

    def _watched(self) -> AbstractContextManager[Activations]:
        """Meanwhile, what passes through the stages is kept, if a regulariser watches them."""
        watches = self.regulariser is not None and self.regulariser.watches_stages
        return recorded(self.model.backbone) if watches else nullcontext({})
