"""Methods that make the statistics of source and target features agree.

On several ranks both distances are those of the joined batch; every rank brings equally many rows of a domain.
"""

import torch
from torch import Tensor

from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision, require_positive
from ray_tl.collectives import gather_rows, sum_over_ranks, world_size
from ray_tl.errors import InvalidInput

MMD_SCALES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)


@full_precision
def coral_distance(source: Tensor, target: Tensor) -> Tensor:
    """Squared Frobenius distance between the two feature covariances, over 4 D^2.

    Sun and Saenko, "Deep CORAL", 2016, https://arxiv.org/abs/1607.01719, eq. 1: ||C_s - C_t||_F^2 / (4 D^2) with
    covariances over n - 1. Departure: covariances are sums of centred rows, which equals eq. 2 and 3 but does not
    cancel when the mean is large.

    Args:
        source: Features [N, D], N >= 2 over all ranks.
        target: Features [M, D], M >= 2 over all ranks; M may differ from N.

    Raises:
        InvalidInput: If the widths differ or a domain has fewer than two rows.
    """
    _require_comparable("CORAL", source, target)
    difference = _covariance(source) - _covariance(target)
    return difference.square().sum() / (4 * source.shape[1] ** 2)


@full_precision
def mmd_distance(source: Tensor, target: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    """Unbiased squared maximum mean discrepancy under a sum of Gaussian kernels of several widths.

    Long et al., "Learning Transferable Features with Deep Adaptation Networks" (DAN), 2015,
    https://arxiv.org/abs/1502.02791, with k(x, y) = sum over a of exp(-||x - y||^2 / (2 a s^2)), a = 2^-3 .. 2^1,
    and s^2 the mean squared distance of two different rows of the joint batch, without gradient. The estimate is that
    of Gretton et al., 2012, eq. 3: E k(x, x') + E k(y, y') - 2 E k(x, y) over different rows, so it can fall below 0.
    Departures from the paper: the kernels are summed with equal weights, and all pairs are used, not a linear-time
    sample of them.

    Args:
        source: Features [N, D], N >= 2 over all ranks.
        target: Features [M, D], M >= 2 over all ranks; M may differ from N.
        bandwidth: Factor on s^2. If all rows coincide the distance is 0, with gradient 0.

    Raises:
        InvalidInput: If the widths differ or a domain has fewer than two rows.
    """
    _require_comparable("MMD", source, target)
    source, target = gather_rows(source), gather_rows(target)
    num_source = len(source)
    squared = _squared_distances(torch.cat([source, target]))
    num_pairs = len(squared) * (len(squared) - 1)
    variance = bandwidth * squared.detach().sum() / num_pairs
    # Below this two rows are one row as far as the precision can tell; it also keeps 0 / 0 out.
    scaled = squared / variance.clamp_min(torch.finfo(squared.dtype).eps ** 2)
    kernel = torch.stack([torch.exp(-scaled / (2 * scale)) for scale in MMD_SCALES]).sum(dim=0)
    within_source = _off_diagonal_mean(kernel[:num_source, :num_source])
    within_target = _off_diagonal_mean(kernel[num_source:, num_source:])
    return within_source + within_target - 2 * kernel[:num_source, num_source:].mean()


@METHODS.register("coral")
class Coral(AdaptationMethod):
    """Deep CORAL: the covariances of source and target features agree."""

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": coral_distance(step.source.features, step.target.features)}


@METHODS.register("mmd", ranges={"bandwidth": {"log_uniform": [0.25, 4.0]}})
class Mmd(AdaptationMethod):
    """DAN: the mean embeddings of source and target features agree under several Gaussian kernels.

    Args:
        context: Not used.
        bandwidth: Factor on the mean squared distance that sets the width of the kernels.
    """

    def __init__(self, context: MethodContext, *, bandwidth: float = 1.0) -> None:
        super().__init__(context)
        require_positive("mmd.bandwidth", bandwidth, usual=1.0)
        self.bandwidth = bandwidth

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        distance = mmd_distance(step.source.features, step.target.features, bandwidth=self.bandwidth)
        return {"task": task_loss(step), "domain": distance}


def _require_comparable(method: str, source: Tensor, target: Tensor) -> None:
    if source.shape[1] != target.shape[1]:
        raise InvalidInput(
            f"{method}: source features of width {source.shape[1]} can't be compared with target features of width "
            f"{target.shape[1]}; use one backbone for both domains."
        )
    for domain, features in (("source", source), ("target", target)):
        rows = len(features) * world_size()
        if rows < 2:
            raise InvalidInput(
                f"{method}: a {domain} batch of {rows} rows is too small; choose 2 or more for batch_size."
            )


def _covariance(features: Tensor) -> Tensor:
    rows = len(features) * world_size()
    # The gradient through the mean is exactly 0, since centred rows sum to 0.
    mean = sum_over_ranks(features.detach().sum(dim=0)) / rows
    centred = features - mean
    return sum_over_ranks(centred.T @ centred) / (rows - 1)


def _squared_distances(rows: Tensor) -> Tensor:
    # From differences, not from ||x||^2 + ||y||^2 - 2 x.y: equal rows must be at distance 0 wherever they lie.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    rows = len(kernel)
    return (kernel.sum() - kernel.trace()) / (rows * (rows - 1))
