"""Evidence from a network, on one rank or many."""

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ray_tl.collectives import rank, world_size
from ray_tl.data.augmentation.views import unchanged
from ray_tl.models.domain_norm import Domain
from ray_tl.models.ensemble import Network
from ray_tl.training.pulse import beat

EVAL_BATCH = 256


def predict_outputs(
    model: Network,
    images: Tensor,
    start: int = 0,
    device: torch.device | None = None,
    domain: Domain = "target",
) -> tuple[Tensor, Tensor]:
    """Features [N, D] and logits [N, C] of all rows, in evaluation mode; ranks share the work and all get the whole.

    Args:
        model: Left in the mode in which it was.
        images: uint8 images, or activations before stage `start`, [N, ...].
        start: Stage at which `images` enter.
        device: Where the model is; the images' by default. Results are on the CPU.
        domain: Of the images.
    """
    features, logits = _outputs_of_this_rank(model, images, start, device, domain)
    return _interleave(features, len(images)), _interleave(logits, len(images))


def predict_features(
    model: Network,
    images: Tensor,
    start: int = 0,
    device: torch.device | None = None,
    domain: Domain = "target",
) -> Tensor:
    """The features of `predict_outputs` alone, [N, D]."""
    return _interleave(_outputs_of_this_rank(model, images, start, device, domain)[0], len(images))


def predict_probabilities(
    model: Network,
    images: Tensor,
    start: int = 0,
    device: torch.device | None = None,
    domain: Domain = "target",
    change: Callable[[Tensor], Tensor] = unchanged,
) -> NDArray[np.float32]:
    """Softmax of the logits of `predict_outputs`, float32 [N, C]; each batch enters as `change` makes it."""
    logits = _interleave(_outputs_of_this_rank(model, images, start, device, domain, change)[1], len(images))
    probabilities: NDArray[np.float32] = logits.float().softmax(dim=1).numpy()
    return probabilities


@torch.no_grad()
def _outputs_of_this_rank(
    model: Network,
    images: Tensor,
    start: int,
    device: torch.device | None,
    domain: Domain,
    change: Callable[[Tensor], Tensor] = unchanged,
) -> tuple[Tensor, Tensor]:
    was_training = model.training
    model.eval()
    mine = torch.arange(rank(), len(images), world_size())
    order = model.backbone.entry.order(images[mine])
    parts = []
    for rows in order.split(EVAL_BATCH):
        beat()
        part = images[mine[rows]].to(device or images.device)
        features, logits = model(change(part), start, (domain,))
        parts.append((features.cpu(), logits.cpu()))
    model.train(was_training)
    widths = (model.feature_dim, model.num_classes)
    features, logits = [torch.cat(part) for part in zip(*parts, strict=True)] or [torch.empty(0, n) for n in widths]
    back = order.argsort()
    return features[back], logits[back]


def _interleave(local: Tensor, num_rows: int) -> Tensor:
    if world_size() == 1:
        return local
    parts: list[Tensor | None] = [None] * world_size()
    dist.all_gather_object(parts, local)
    whole = local.new_empty(num_rows, local.shape[1])
    for index, part in enumerate(parts):
        assert part is not None
        whole[index :: world_size()] = part
    return whole
