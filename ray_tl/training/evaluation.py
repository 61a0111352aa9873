"""Evidence from a network, on one rank or many."""

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from ray_tl.collectives import rank, world_size
from ray_tl.models.transfer_model import TransferModel

EVAL_BATCH = 256


@torch.no_grad()
def predict_probabilities(
    model: TransferModel, images: Tensor, start: int = 0, device: torch.device | None = None
) -> NDArray[np.float32]:
    """Softmax over all rows, [N, C], computed in evaluation mode; ranks share the work and all get the whole.

    Args:
        model: Left in the mode in which it was.
        images: uint8 images, or activations before stage `start`, [N, ...].
        start: Stage at which `images` enter.
        device: Where the model is; the images' by default.
    """
    was_training = model.training
    model.eval()
    mine = torch.arange(rank(), len(images), world_size())
    parts = []
    for rows in mine.split(EVAL_BATCH):
        _, logits = model(images[rows].to(device or images.device), start)
        parts.append(logits.float().softmax(dim=1).cpu())
    model.train(was_training)
    local = torch.cat(parts) if parts else torch.empty(0, model.head.out_features)
    return _interleave(local, len(images)).numpy()


def _interleave(local: Tensor, num_rows: int) -> Tensor:
    if world_size() == 1:
        return local
    parts: list[Tensor | None] = [None] * world_size()
    dist.all_gather_object(parts, local)
    whole = torch.empty(num_rows, local.shape[1])
    for index, part in enumerate(parts):
        assert part is not None
        whole[index :: world_size()] = part
    return whole
