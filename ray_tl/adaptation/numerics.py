"""What every loss shares: enough precision, distances that do not cancel, and parameters that make sense."""

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.errors import InvalidInput

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Decorator: compute a loss of tensors in float32, or float64 if given that, whatever autocast says.

    Variances, kernels and logarithms of small probabilities do not survive eight bits of mantissa.
    """

    @functools.wraps(loss)
    def precise(*tensors: P.args, **parameters: P.kwargs) -> R:
        wide = [_at_least_float32(tensor) for tensor in tensors]
        with torch.autocast(wide[0].device.type, enabled=False):
            return loss(*wide, **parameters)  # type: ignore[arg-type]  # mypy can't map a ParamSpec

    return precise


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distance of each row to each of the others, [N, D] and [M, D] to [N, M]; gradients flow.

    From ||x||^2 + ||y||^2 - 2 x.y, a product of matrices, of rows that have been moved to around 0: distances are right
    to a small part of the spread of all rows, wherever they lie, and 0 if all rows coincide.
    """
    moved, others = _around_zero(rows, others)
    lengths, other_lengths = moved.square().sum(dim=1), others.square().sum(dim=1)
    # Rounding may take the distance of two rows that are close to each other below 0.
    return (lengths[:, None] + other_lengths - 2 * moved @ others.T).clamp_min(0)


def finite_log_softmax(logits: Tensor) -> Tensor:
    """Logarithms of the probabilities, [N, C], never below the lowest finite number.

    Logits at both ends of the range overflow to -inf, and 0 * inf would be NaN in an entropy or a divergence.
    """
    log_probabilities = F.log_softmax(logits, dim=1)
    return log_probabilities.clamp_min(torch.finfo(log_probabilities.dtype).min)


def require_positive(field: str, value: float, usual: float) -> None:
    """Refuse a parameter that is not a finite number above 0.

    Raises:
        InvalidInput: If it is not; the message proposes `usual`.
    """
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{field}={value!r} must be a finite number above 0; {usual} is usual.")


def require_threshold(field: str, value: float, usual: float) -> None:
    """Refuse a threshold of confidence that is not above 0 and at most 1.

    Raises:
        InvalidInput: If it is not; the message proposes `usual`.
    """
    if not 0 < value <= 1:
        raise InvalidInput(f"{field}={value!r} must be above 0 and at most 1, as confidences are; {usual} is usual.")


def require_below_one(field: str, value: float, usual: float) -> None:
    """Refuse a share or a moment that is not at least 0 and below 1.

    Raises:
        InvalidInput: If it is not; the message proposes `usual`.
    """
    if not 0 <= value < 1:
        raise InvalidInput(f"{field}={value!r} must be at least 0 and below 1; {usual} is usual.")


def _at_least_float32(tensor: object) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _around_zero(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both, less one point among them, which no distance depends on."""
    # First a row, so that nothing is rounded where all rows coincide; then the mean of what is left.
    rows, others = rows - rows[:1].detach(), others - rows[:1].detach()
    middle = others.detach().mean(dim=0)
    return rows - middle, others - middle
