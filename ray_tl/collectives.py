"""Sums and gathers over the ranks of a process group, through which gradients flow.

Every rank computes the same loss L of the joined batch. The backward pass of both functions sums the incoming
gradient over ranks, W times the gradient of L on W ranks; DDP's mean over ranks divides by W again. So parameter
gradients equal those of one process on the joined batch. Without a process group both are the identity.
"""

import torch
import torch.distributed as dist
from torch import Tensor


class GroupLost(RuntimeError):
    """The process group that this process trained in is gone."""


_has_been_in_a_group = False


def world_size() -> int:
    """Ranks of the process group; 1 without one.

    Raises:
        GroupLost: If there was a group and there is none any more. When a rank dies, Ray Train takes the group down in
            the others from another thread, in the middle of whatever they do, and none of them may go on alone.
    """
    global _has_been_in_a_group
    if dist.is_available() and dist.is_initialized():
        _has_been_in_a_group = True
        return dist.get_world_size()
    if _has_been_in_a_group:
        raise GroupLost("the process group of this rank was taken down; another rank has died")
    return 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def sum_over_ranks(local: Tensor) -> Tensor:
    """Elementwise sum of a tensor of equal shape on every rank; gradients flow to every rank."""
    return _Sum.apply(local) if world_size() > 1 else local


def gather_rows(local: Tensor) -> Tensor:
    """Rows of every rank in rank order, [N, ...] on each of W ranks to [W * N, ...]; gradients flow to every rank."""
    return _Gather.apply(local) if world_size() > 1 else local


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, local: Tensor) -> Tensor:
        total = local.clone().contiguous()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        total = grads[0].clone().contiguous()
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        total = grads[0].clone().contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
