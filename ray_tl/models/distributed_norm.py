"""Batch normalisation over the joined batch of all ranks, so that a trial is the same on any number of workers."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ray_tl.collectives import gather_rows, world_size
from ray_tl.errors import InvalidInput

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class DistributedBatchNorm(_BatchNorm):
    """`nn.BatchNorm` whose training statistics are those of all ranks' rows together, on CPU and GPU.

    Gradients flow through the statistics to every rank; see `ray_tl.collectives` for how they relate to those of one
    process. In evaluation, and on one rank, it is `nn.BatchNorm`. Ranks may hold different numbers of rows.

    `drop` and `act` follow the normalisation, as in timm's `BatchNormAct2d`.
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Inputs [N, C] or [N, C, ...] to the same shape."""
        alone = world_size() == 1 or not self.training
        return self.act(self.drop(super().forward(x) if alone else self._normalise_jointly(x)))

    def _normalise_jointly(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision is too coarse for statistics
        mean, variance, count = _joint_statistics(wide)
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = (variance + self.eps).rsqrt()
        shape = [1, -1] + [1] * (x.ndim - 2)
        normal = (wide - mean.view(shape)) * scale.view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(variance.to(self.running_var.dtype), rate)

    def _check_input_dim(self, x: Tensor) -> None:
        assert x.ndim >= 2, x.shape


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every `nn.BatchNorm` in `module`, in place, by one over all ranks; itself if it is one.

    Parameters, buffers and their names stay the same objects, so optimisers and checkpoints fit as before.

    Raises:
        InvalidInput: If there is a variant of batch normalisation whose computation is not known.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, DistributedBatchNorm):
        return _converted(module)
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child))
    return module


def _converted(norm: _BatchNorm) -> DistributedBatchNorm:
    kind = type(norm)
    if kind not in _PLAIN and kind.__name__ != "BatchNormAct2d":
        raise InvalidInput(f"{kind.__name__} can't be spread over workers; use nn.BatchNorm, or one worker per trial.")
    joint = DistributedBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    joint.weight, joint.bias = norm.weight, norm.bias
    joint.running_mean, joint.running_var = norm.running_mean, norm.running_var
    joint.num_batches_tracked = norm.num_batches_tracked
    joint.drop = getattr(norm, "drop", nn.Identity())
    joint.act = getattr(norm, "act", nn.Identity())
    return joint.train(norm.training)


def _joint_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C] and count over all ranks, from [N, C, ...].

    Ranks exchange mean and variance and combine them as in Chan et al., 1979: exact where a sum of squares cancels,
    and one message where a mean followed by squares would take two.
    """
    num_channels = x.shape[1]
    columns = x.transpose(0, 1).reshape(num_channels, -1)
    count = x.new_tensor([columns.shape[1]])
    row = torch.cat([count, columns.mean(1), columns.var(1, correction=0)])
    counts, means, variances = gather_rows(row[None]).split([1, num_channels, num_channels], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return mean, variance, total
