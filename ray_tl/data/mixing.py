"""Two labelled examples become one: examples of a batch mixed with their neighbours, and their labels with them."""

from typing import Protocol

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry


class Mixing(Protocol):
    """A way to make one example of two, as a pure function of uniform draws.

    Attributes:
        num_draws: Random numbers for each example.
        on_activations: Whether it also mixes what frozen stages give; else it needs images.
    """

    num_draws: int
    on_activations: bool

    def mix(self, inputs: Tensor, partners: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed examples [N, ...], and the share of `inputs` in each, [N] in 0..1.

        Args:
            inputs: [N, ...].
            partners: What each is mixed with, [N, ...].
            draws: [N, num_draws] in [0, 1).
        """
        ...


MIXINGS: Registry[Mixing | None] = Registry("mixing")


@MIXINGS.register("none")
def none() -> None:
    """Every example on its own."""


@MIXINGS.register("mixup", ranges={"alpha": {"log_uniform": [0.1, 1.0]}})
class MixUp:
    """Weighted means of two examples and of their labels.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017, https://arxiv.org/abs/1710.09412, eq. 1 and
    section 2: x = s x_i + (1 - s) x_j, s from Beta(alpha, alpha). Where activations behind frozen stages come from the
    cache, it is these that are mixed: Verma et al., "Manifold Mixup: Better Representations by Interpolating Hidden
    States", 2018, https://arxiv.org/abs/1806.05236, eq. 2, at one layer. Departure: each pair has a share of its own,
    not each batch.

    Args:
        alpha: Small ones leave most examples nearly as they are; above 0, up to 32.
    """

    num_draws = 1
    on_activations = True

    def __init__(self, *, alpha: float = 0.2) -> None:
        _require_alpha("mixup", alpha)
        self._alpha = alpha

    def mix(self, inputs: Tensor, partners: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        shares = beta_quantiles(draws[:, 0], self._alpha).to(inputs)
        weights = shares.view(-1, *[1] * (inputs.ndim - 1))
        return weights * inputs + (1 - weights) * partners, shares


@MIXINGS.register("cutmix", ranges={"alpha": {"log_uniform": [0.2, 2.0]}})
class CutMix:
    """A rectangle of one image is pasted into another; labels are mixed by area.

    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019,
    https://arxiv.org/abs/1905.04899, eq. 1 and 2, with the share of the area that is left after the rectangle was cut
    at the border, as in their code. Departure: each pair has a rectangle of its own, not each batch. Images can't come
    from the cache of frozen stages then.

    Args:
        alpha: Area of the rectangle is 1 - s, s from Beta(alpha, alpha); 1 is uniform; above 0, up to 32.
    """

    num_draws = 3
    on_activations = False

    def __init__(self, *, alpha: float = 1.0) -> None:
        _require_alpha("cutmix", alpha)
        self._alpha = alpha

    def mix(self, inputs: Tensor, partners: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        half = (1 - beta_quantiles(draws[:, 0], self._alpha)).sqrt() / 2
        inside = [_within(draws[:, 2 - axis], half, inputs.shape[2 + axis]) for axis in (0, 1)]  # rows, then columns
        pasted = (inside[0][:, :, None] & inside[1][:, None, :]).to(inputs.device)
        shares = 1 - pasted.to(inputs.dtype).mean(dim=(1, 2))
        return torch.where(pasted[:, None], partners, inputs), shares


def mixed_labels(labels: Tensor, partners: Tensor, shares: Tensor, num_classes: int) -> Tensor:
    """Share of each class in mixed examples, [N, C], rows sum to 1.

    Args:
        labels: int64 [N].
        partners: Labels of what each was mixed with, int64 [N].
        shares: Of the first, [N].
        num_classes: C.
    """
    first, second = (F.one_hot(part, num_classes).to(torch.get_default_dtype()) for part in (labels, partners))
    return torch.lerp(second, first, shares.to(first)[:, None])


def beta_quantiles(draws: Tensor, alpha: float) -> Tensor:
    """Uniform draws in [0, 1) to draws from Beta(alpha, alpha), on the CPU, float64."""
    return torch.as_tensor(betaincinv(alpha, alpha, draws.detach().cpu().double().numpy()))


def _within(centres: Tensor, half: Tensor, size: int) -> Tensor:
    """Which of `size` places are less than `half * size` from a centre drawn uniformly, bool [N, size]."""
    centre, reach = (centres.cpu().double() * size).long(), (half * size).long()
    places = torch.arange(size)
    return (places >= (centre - reach)[:, None]) & (places < (centre + reach)[:, None])


def _require_alpha(name: str, alpha: float) -> None:
    if not 0 < alpha <= 32:
        raise InvalidInput(f"{name}.alpha={alpha} is out of range; choose above 0, up to 32.")
