"""Everything that a trial trains, as one module: the one thing wrapped in DDP and saved."""

import torch
from torch import Tensor, nn

from ray_tl.adaptation.method import AdaptationMethod, Outputs
from ray_tl.models.transfer_model import TransferModel


class AdaptationTask(nn.Module):
    """Network and adaptation method; one `forward` gives the named losses of a step.

    Source and target go through the network as one batch, so that normalisation sees both domains.

    Args:
        model: Backbone and head.
        method: Its learned parts, such as a discriminator, are trained with the network.
    """

    def __init__(self, model: TransferModel, method: AdaptationMethod) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(
        self, source: Tensor, labels: Tensor, target: Tensor | None, start: int, progress: float
    ) -> dict[str, Tensor]:
        """Losses of one step.

        Args:
            source: Images, or activations before stage `start`, [N, ...].
            labels: [N], int64.
            target: As `source`, [M, ...]; `None` if the method does not need it.
            start: Stage at which the inputs enter the backbone; 0 for images.
            progress: In [0, 1] of full fidelity.
        """
        joined = source if target is None else torch.cat([source, target])
        features, logits = self.model(joined, start)
        rows = len(source)
        outputs = Outputs(features[:rows], logits[:rows])
        others = None if target is None else Outputs(features[rows:], logits[rows:])
        return self.method.losses(outputs, labels, others, progress)
