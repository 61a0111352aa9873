"""One rank of the comparison in `test_distributed_norm`.

A single rank runs the networks as they are, with torch's and timm's own normalisation; several run them converted.
"""

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ray_tl.models.backbones import BACKBONES, BackboneContext
from ray_tl.models.distributed_norm import convert_batch_norm
from ray_tl.models.stages import StagedBackbone

UNEVEN = [slice(0, 3), slice(3, 8)]
EVEN = [slice(0, 4), slice(4, 8)]


def backbone(name: str, depth: int = 0, **params: str) -> StagedBackbone:
    built = BACKBONES.create(name, params, BackboneContext())
    built.freeze(depth)
    return built


CASES = {
    "vectors": (lambda: nn.BatchNorm1d(5), (8, 5)),
    "sequences": (lambda: nn.BatchNorm1d(5), (8, 5, 7)),
    "images": (lambda: nn.BatchNorm2d(3), (8, 3, 4, 4)),
    "without_affine": (lambda: nn.BatchNorm2d(3, affine=False), (8, 3, 4, 4)),
    "without_tracking": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (8, 3, 4, 4)),
    "cumulative_average": (lambda: nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 4)),
    "with_activation": (lambda: BatchNormAct2d(3), (8, 3, 4, 4)),
    "tiny_cnn": (lambda: backbone("tiny_cnn"), (8, 3, 16, 16)),
    "half_frozen": (lambda: backbone("tiny_cnn", depth=1), (8, 3, 16, 16)),
    "efficientnet_lite0": (lambda: backbone("efficientnet_lite0", weights="none"), (8, 3, 32, 32)),
}


def run_case(name: str, rank: int, num_ranks: int) -> dict[str, Tensor]:
    """Two steps on this rank's rows of each batch, far from zero mean; outputs, gradients and state after them."""
    build, shape = CASES[name]
    torch.manual_seed(0)
    network = build().double().train()
    batches, weights = 3 + 2 * torch.randn(2, *shape).double(), torch.randn(2, shape[0]).double()
    rows = UNEVEN[rank] if num_ranks == 2 else slice(None)
    network = convert_batch_norm(network) if num_ranks == 2 else network
    for batch, weight in zip(batches, weights, strict=True):
        x = batch[rows].clone().requires_grad_()
        outputs = network(x)
        (outputs.square().flatten(1).mean(1) * weight[rows]).sum().backward()
    gradients = {f"gradient {key}": value.grad for key, value in network.named_parameters() if value.requires_grad}
    state = {f"state {key}": value for key, value in network.state_dict().items()}
    return {"outputs": outputs.detach(), "input gradient": x.grad, **gradients, **state}


def run_ddp(rank: int, num_ranks: int) -> dict[str, Tensor]:
    """Parameter gradients of a mean over rows, as DDP leaves them."""
    torch.manual_seed(0)
    network, images = backbone("tiny_cnn").double().train(), torch.randn(8, 3, 16, 16).double()
    wrapped = DistributedDataParallel(convert_batch_norm(network)) if num_ranks == 2 else network
    wrapped(images[EVEN[rank] if num_ranks == 2 else slice(None)]).square().mean().backward()
    return {key: value.grad for key, value in network.named_parameters()}


def run_all(rank: int, num_ranks: int) -> dict[str, dict[str, Tensor]]:
    cases = {name: run_case(name, rank, num_ranks) for name in CASES}
    return {**cases, "ddp": run_ddp(rank, num_ranks)}


def run_this_rank() -> dict[str, dict[str, Tensor]]:
    return run_all(dist.get_rank(), dist.get_world_size())
