"""Methods that make the statistics of source and target features agree.

On several ranks the distances are those of the joined batch; every rank brings equally many rows of a domain.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision, require_positive, squared_distances
from ray_tl.adaptation.published import BOTTLENECK, LIKE_CDAN, SLOW_BACKBONE, constant
from ray_tl.collectives import gather_rows, sum_over_ranks, world_size
from ray_tl.errors import InvalidInput
from ray_tl.registry import Published

MMD_SCALES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
PREDICTION_VARIANCE = 0.84


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
    return whole_mmd_distance(gather_rows(source), gather_rows(target), bandwidth=bandwidth)


@full_precision
def whole_mmd_distance(source: Tensor, target: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    """`mmd_distance` of rows that each rank has all of; no rank asks another.

    Args:
        source: Features [N, D], N >= 2.
        target: Features [M, D], M >= 2.
        bandwidth: Factor on s^2.
    """
    return _unbiased_distance(_feature_kernel(torch.cat([source, target]), bandwidth), len(source))


@full_precision
def whole_coral_distance(source: Tensor, target: Tensor) -> Tensor:
    """`coral_distance` of rows that each rank has all of; no rank asks another.

    Args:
        source: Features [N, D], N >= 2.
        target: Features [M, D], M >= 2.
    """
    difference = torch.cov(source.T) - torch.cov(target.T)
    return difference.square().sum() / (4 * source.shape[1] ** 2)


@full_precision
def mean_distance(source: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the mean features, ||m_s - m_t||^2: maximum mean discrepancy under a linear kernel.

    Tzeng et al., "Deep Domain Confusion" (DDC), 2014, https://arxiv.org/abs/1412.3474, eq. 1, squared.

    Args:
        source: Features [N, D].
        target: Features [M, D]; M may differ from N.

    Raises:
        InvalidInput: If the widths differ.
    """
    _require_same_width("DDC", source, target)
    return (_joint_mean(source) - _joint_mean(target)).square().sum()


@full_precision
def joint_mmd_distance(
    source: Tensor, target: Tensor, source_logits: Tensor, target_logits: Tensor, *, bandwidth: float = 1.0
) -> Tensor:
    """Unbiased squared maximum mean discrepancy of features and predictions taken together.

    Long et al., "Deep Transfer Learning with Joint Adaptation Networks" (JAN), 2017,
    https://arxiv.org/abs/1605.06636, sec. 4.1: the kernel of two examples is the product of a kernel of their features,
    that of `mmd_distance`, and a kernel of their softmax predictions, exp(-||p - q||^2 / (2 * 0.84)). So two domains of
    which features agree and predictions agree are still apart if they go together in another way. Gradients flow
    through features and logits.
    Departures from the paper: the estimate is that of `mmd_distance`, over all pairs of different rows, so it can fall
    below 0, where the paper trains on a linear-time sample of pairs; the widths are those of the authors' code, a sum
    of five for the features and a fixed one for the predictions, where the paper takes the median distance; there is no
    adversarial layer (JAN-A); the layers are the last features and the predictions.

    Args:
        source: Features [N, D], N >= 2 over all ranks.
        target: Features [M, D], M >= 2 over all ranks; M may differ from N.
        source_logits: [N, C].
        target_logits: [M, C].
        bandwidth: Factor on the mean squared distance of the features. If all features coincide, the predictions
            alone are compared.

    Raises:
        InvalidInput: If the widths differ or a domain has fewer than two rows.
    """
    _require_comparable("JAN", source, target)
    predictions = F.softmax(_joined(source_logits, target_logits), dim=1)
    prediction_kernel = torch.exp(-squared_distances(predictions, predictions) / (2 * PREDICTION_VARIANCE))
    kernel = _feature_kernel(_joined(source, target), bandwidth) * prediction_kernel
    return _unbiased_distance(kernel, len(source) * world_size())


@METHODS.register(
    "coral",
    published=Published(
        "Sun and Saenko, 2016, https://arxiv.org/abs/1607.01719; the weight, which they set so that both losses end "
        "alike, is 1",
        trial={
            **SLOW_BACKBONE,
            "optimizer": {"sgd": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}},
            "lr_schedule": "constant",
            "batch_size": 128,
            **constant(domain=1.0),
        },
    ),
    family="alignment",
)
class Coral(AdaptationMethod):
    """Deep CORAL: the covariances of source and target features agree."""

    aligns_features = True

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": coral_distance(step.source.features, step.target.features)}


@METHODS.register(
    "ddc",
    published=Published(
        "Tzeng et al., 2014, https://arxiv.org/abs/1412.3474: weight 0.25, of the distance where ours is its square",
        trial={
            **BOTTLENECK,
            **SLOW_BACKBONE,
            "optimizer": {"sgd": {"lr": 1e-3}},
            "lr_schedule": "constant",
            **constant(domain=0.25),
        },
    ),
    family="alignment",
)
class Ddc(AdaptationMethod):
    """DDC: the mean features of source and target agree, which is MMD under a linear kernel."""

    aligns_features = True

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "domain": mean_distance(step.source.features, step.target.features)}


@METHODS.register(
    "mmd",
    ranges={"bandwidth": {"log_uniform": [0.25, 4.0]}},
    published=Published(
        "Long et al., 2015, https://arxiv.org/abs/1502.02791; the weight, which they cross-validate, is 1",
        params={"bandwidth": 1.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="alignment",
)
class Mmd(AdaptationMethod):
    """DAN: the mean embeddings of source and target features agree under several Gaussian kernels.

    Args:
        context: Not used.
        bandwidth: Factor on the mean squared distance that sets the width of the kernels.
    """

    aligns_features = True

    def __init__(self, context: MethodContext, *, bandwidth: float = 1.0) -> None:
        super().__init__(context)
        require_positive("mmd.bandwidth", bandwidth, usual=1.0)
        self.bandwidth = bandwidth

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        distance = mmd_distance(step.source.features, step.target.features, bandwidth=self.bandwidth)
        return {"task": task_loss(step), "domain": distance}


@METHODS.register(
    "jan",
    ranges={"bandwidth": {"log_uniform": [0.25, 4.0]}},
    published=Published(
        "Long et al., 2017, https://arxiv.org/abs/1605.06636",
        params={"bandwidth": 1.0},
        trial={**LIKE_CDAN, "loss_weighting": {"dann": {"domain": 1.0, "gamma": 10.0}}},
    ),
    family="alignment",
)
class Jan(AdaptationMethod):
    """JAN: the joint distributions of features and predictions agree between source and target.

    Args:
        context: Not used.
        bandwidth: Factor on the mean squared distance that sets the width of the kernels of the features.
    """

    aligns_features = True

    def __init__(self, context: MethodContext, *, bandwidth: float = 1.0) -> None:
        super().__init__(context)
        require_positive("jan.bandwidth", bandwidth, usual=1.0)
        self.bandwidth = bandwidth

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        source, target = step.source, step.target
        distance = joint_mmd_distance(
            source.features, target.features, source.logits, target.logits, bandwidth=self.bandwidth
        )
        return {"task": task_loss(step), "domain": distance}


def _require_same_width(method: str, source: Tensor, target: Tensor) -> None:
    if source.shape[1] != target.shape[1]:
        raise InvalidInput(
            f"{method}: source features of width {source.shape[1]} can't be compared with target features of width "
            f"{target.shape[1]}; use one backbone for both domains."
        )


def _require_comparable(method: str, source: Tensor, target: Tensor) -> None:
    _require_same_width(method, source, target)
    for domain, features in (("source", source), ("target", target)):
        rows = len(features) * world_size()
        if rows < 2:
            raise InvalidInput(
                f"{method}: a {domain} batch of {rows} rows is too small; choose 2 or more for batch_size."
            )


def _joint_mean(features: Tensor) -> Tensor:
    return sum_over_ranks(features.sum(dim=0)) / (len(features) * world_size())


def _covariance(features: Tensor) -> Tensor:
    rows = len(features) * world_size()
    # The gradient through the mean is exactly 0, since centred rows sum to 0.
    mean = sum_over_ranks(features.detach().sum(dim=0)) / rows
    centred = features - mean
    return sum_over_ranks(centred.T @ centred) / (rows - 1)


def _joined(source: Tensor, target: Tensor) -> Tensor:
    return torch.cat([gather_rows(source), gather_rows(target)])


def _feature_kernel(rows: Tensor, bandwidth: float) -> Tensor:
    squared = squared_distances(rows, rows)
    num_pairs = len(squared) * (len(squared) - 1)
    variance = bandwidth * squared.detach().sum() / num_pairs
    # Below this two rows are one row as far as the precision can tell; it also keeps 0 / 0 out.
    scaled = squared / variance.clamp_min(torch.finfo(squared.dtype).eps ** 2)
    kernel = torch.exp(-scaled / (2 * MMD_SCALES[-1]))
    total = kernel
    for _ in MMD_SCALES[1:]:
        kernel = kernel.square()  # the kernel of half the scale, cheaper than an exponential
        total = total + kernel
    return total


def _unbiased_distance(kernel: Tensor, num_source: int) -> Tensor:
    within_source = _off_diagonal_mean(kernel[:num_source, :num_source])
    within_target = _off_diagonal_mean(kernel[num_source:, num_source:])
    return within_source + within_target - 2 * kernel[:num_source, num_source:].mean()


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    rows = len(kernel)
    return (kernel.sum() - kernel.trace()) / (rows * (rows - 1))
