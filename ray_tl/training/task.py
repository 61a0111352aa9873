"""Everything that a trial trains, as one module: the one thing wrapped in DDP and saved."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ray_tl.adaptation.loss_weights import LossWeights
from ray_tl.adaptation.method import AdaptationMethod, Outputs, StepOutputs, View
from ray_tl.models.adaptors import set_num_views
from ray_tl.models.transfer_model import TransferModel


class AdaptationTask(nn.Module):
    """Network, adaptation method and loss weights; one `forward` gives the loss of a step.

    All views go through the network as one batch, so that normalisation sees both domains.

    Args:
        model: Backbone and head.
        method: Its learned parts, such as a discriminator, are trained with the network.
        loss_weights: Trained with the network too, if they learn.
    """

    def __init__(self, model: TransferModel, method: AdaptationMethod, loss_weights: LossWeights) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.loss_weights = loss_weights
        method.attach(model)

    def forward(
        self,
        views: Mapping[View, Tensor],
        rows: Mapping[View, Tensor],
        labels: Tensor,
        start: int,
        progress: float,
        gap: float,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """The weighted loss of one step, the named losses, and the weights used.

        Args:
            views: Images, or activations before stage `start`, [N, ...] for each view that the method needs.
            rows: Number of each example in its domain, [N] for each view.
            labels: Of the source rows, [N], int64.
            start: Stage at which the inputs enter the backbone; 0 for images.
            progress: In [0, 1] of full fidelity.
            gap: Between source and target, after the last epoch; see `EpochReport`.
        """
        set_num_views(self.model, len(views))
        features, logits = self.model(torch.cat(list(views.values())), start)
        sizes = [len(view) for view in views.values()]
        parts = zip(views, features.split(sizes), logits.split(sizes), strict=True)
        outputs = {name: Outputs(part, scores, views[name], rows[name]) for name, part, scores in parts}
        losses = self.method.losses(StepOutputs(outputs, labels, progress, start))
        total, weights = self.loss_weights.combine(losses, progress, gap)
        return total, losses, weights
