"""How much each named loss counts: as a function of progress, of the gap between the domains, or learned.

A schedule is a pure function of progress in [0, 1] to the share in [0, 1] of the peak weights that are searched.
The task weighs 1 under all of them: only ratios matter to the direction of a step, and the learning rate owns its
length. `adaptive` lets it fall late, and `uncertainty` learns it with the others.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ray_tl.adaptation.method import LOSS_NAMES
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.registry import Registry


class LossWeights(Protocol):
    """Turns named losses into one. What learns its weights is an `nn.Module` that fits this."""

    def weights(self, progress: float, names: Iterable[str], gap: float = 0.0) -> dict[str, float]:
        """The weight of each of these losses at this progress and gap; see `combine`."""

    def combine(self, losses: Mapping[str, Tensor], progress: float, gap: float) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum, with gradient, and the weights used.

        Args:
            losses: Scalars by name, from `LOSS_NAMES`.
            progress: In [0, 1] of full fidelity.
            gap: Mean confidence on the source hold-out less that on the target after the last epoch, in [-1, 1].
        """


LOSS_WEIGHTS: Registry[LossWeights] = Registry("loss weighting")


def linear_ramp(progress: float, start: float = 0.0, length: float = 1.0) -> float:
    """0 until `start`, then a straight line that reaches 1 after `length` more of progress."""
    return min(1.0, max(0.0, (progress - start) / length))


def cosine_ramp(progress: float) -> float:
    """From 0 to 1 along half a cosine: (1 - cos(pi p)) / 2, flat at both ends."""
    return (1 - math.cos(math.pi * progress)) / 2


def dann_ramp(progress: float, gamma: float) -> float:
    """From 0 towards 1 along a sigmoid: 2 / (1 + exp(-gamma p)) - 1.

    Ganin et al., "Domain-Adversarial Training of Neural Networks", 2016, https://arxiv.org/abs/1505.07818, sec. 5.2.2.
    """
    return 2 / (1 + math.exp(-gamma * progress)) - 1


def step(progress: float, at: float) -> float:
    """0 before `at`, 1 from there on."""
    return 1.0 if progress >= at else 0.0


_WEIGHT_RANGES = {name: {"log_uniform": [0.01, 10.0]} for name in ("domain", "consistency", "reconstruction")}


@dataclass(frozen=True, kw_only=True)
class PeakWeights(ABC):
    """Peak weights of which a share is taken in each step.

    Attributes:
        domain: Peak weight of the domain loss, >= 0.
        consistency: Peak weight of the consistency loss, >= 0.
        reconstruction: Peak weight of the reconstruction loss, >= 0.

    Raises:
        InvalidInput: If a value breaks its rule; all of them at once.
    """

    domain: float = 1.0
    consistency: float = 1.0
    reconstruction: float = 1.0

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise all_at_once("loss weighting", problems)

    @abstractmethod
    def shares(self, progress: float, gap: float) -> tuple[float, float]:
        """The weight of the task, and the share of the peak weights of all other losses, both in [0, 1]."""

    def weights(self, progress: float, names: Iterable[str], gap: float = 0.0) -> dict[str, float]:
        task, share = self.shares(progress, gap)
        peaks = {"domain": self.domain, "consistency": self.consistency, "reconstruction": self.reconstruction}
        return {name: task if name == "task" else peaks[name] * share for name in names}

    def combine(self, losses: Mapping[str, Tensor], progress: float, gap: float) -> tuple[Tensor, dict[str, float]]:
        weights = self.weights(progress, losses, gap)
        # A loss of weight 0 stays in the graph: DDP waits for the gradient of every parameter.
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return total, weights

    def _problems(self) -> list[str]:
        weights = {"domain": self.domain, "consistency": self.consistency, "reconstruction": self.reconstruction}
        return [
            f"{name}={value!r} must be a finite number of at least 0; give 0 to switch the loss off."
            for name, value in weights.items()
            if not (math.isfinite(value) and value >= 0)
        ]


class ScheduledWeights(PeakWeights):
    """Peak weights times a share that depends on progress alone; the task always weighs 1."""

    @abstractmethod
    def share(self, progress: float) -> float:
        """Share of the peak weights at this progress, in [0, 1]."""

    def shares(self, progress: float, gap: float) -> tuple[float, float]:
        return 1.0, self.share(progress)


@LOSS_WEIGHTS.register("constant", ranges=_WEIGHT_RANGES)
@dataclass(frozen=True, kw_only=True)
class Constant(ScheduledWeights):
    """The peak weights from the first step to the last."""

    def share(self, progress: float) -> float:
        return 1.0


@LOSS_WEIGHTS.register("linear", ranges=_WEIGHT_RANGES)
@dataclass(frozen=True, kw_only=True)
class Linear(ScheduledWeights):
    """From 0 to the peak weights along a straight line."""

    def share(self, progress: float) -> float:
        return linear_ramp(progress)


@LOSS_WEIGHTS.register("cosine", ranges=_WEIGHT_RANGES)
@dataclass(frozen=True, kw_only=True)
class Cosine(ScheduledWeights):
    """From 0 to the peak weights along half a cosine."""

    def share(self, progress: float) -> float:
        return cosine_ramp(progress)


@LOSS_WEIGHTS.register("dann", ranges={**_WEIGHT_RANGES, "gamma": {"log_uniform": [1.0, 20.0]}})
@dataclass(frozen=True, kw_only=True)
class DannSigmoid(ScheduledWeights):
    """From 0 towards the peak weights along DANN's sigmoid, steep at the start.

    Attributes:
        gamma: Steepness, above 0; at 10 half the peak is reached at progress 0.11.
    """

    gamma: float = 10.0

    def share(self, progress: float) -> float:
        return dann_ramp(progress, self.gamma)

    def _problems(self) -> list[str]:
        holds = math.isfinite(self.gamma) and self.gamma > 0
        rule = f"gamma={self.gamma!r} must be a finite number above 0; 10 is usual."
        return super()._problems() + ([] if holds else [rule])


@LOSS_WEIGHTS.register("step", ranges={**_WEIGHT_RANGES, "at": {"uniform": [0.0, 0.5]}})
@dataclass(frozen=True, kw_only=True)
class Step(ScheduledWeights):
    """The task alone until `at`, then the peak weights at once.

    Attributes:
        at: Progress of the step, in [0, 1].
    """

    at: float = 0.5

    def share(self, progress: float) -> float:
        return step(progress, self.at)

    def _problems(self) -> list[str]:
        return super()._problems() + _outside_unit("at", self.at)


@LOSS_WEIGHTS.register(
    "delayed", ranges={**_WEIGHT_RANGES, "start": {"uniform": [0.0, 0.5]}, "ramp": {"uniform": [0.05, 0.5]}}
)
@dataclass(frozen=True, kw_only=True)
class Delayed(ScheduledWeights):
    """The task alone until `start`, then a straight line to the peak weights over `ramp`.

    Attributes:
        start: Progress at which the line leaves 0, in [0, 1].
        ramp: Progress that the line takes, above 0; `start + ramp` is at most 1, so that the peak is reached.
    """

    start: float = 0.2
    ramp: float = 0.2

    def share(self, progress: float) -> float:
        return linear_ramp(progress, self.start, self.ramp)

    def _problems(self) -> list[str]:
        problems = super()._problems() + _outside_unit("start", self.start)
        if not self.ramp > 0:
            problems.append(f"ramp={self.ramp!r} must be above 0; choose the weighting 'step' for a jump.")
        if self.start + self.ramp > 1:
            problems.append(
                f"start={self.start!r} and ramp={self.ramp!r} must add up to at most 1, or the peak is never reached; "
                "lower one of them."
            )
        return problems


@LOSS_WEIGHTS.register(
    "adaptive",
    ranges={
        **_WEIGHT_RANGES,
        "scale": {"log_uniform": [0.05, 0.5]},
        "task_fall_from": {"uniform": [0.5, 1.0]},
        "task_floor": {"uniform": [0.1, 1.0]},
    },
)
@dataclass(frozen=True, kw_only=True)
class Adaptive(PeakWeights):
    """The peak weights as far as the last epoch left a gap in confidence; the task falls late.

    Our own rule, not one of a paper: the losses that close the gap weigh their peak times gap / scale, clamped to
    [0, 1], and the task weighs 1 until `task_fall_from`, then a straight line to `task_floor` at progress 1. The first
    epoch, before which no gap is measured, trains the task alone, and so does a network that is no less confident on
    the target than on the source.

    Attributes:
        scale: Gap at which the peak weights are reached, above 0.
        task_fall_from: Progress at which the task begins to fall, in [0, 1]; at 1 it never does.
        task_floor: Weight of the task at progress 1, in [0, 1].
    """

    scale: float = 0.2
    task_fall_from: float = 0.7
    task_floor: float = 0.5

    def shares(self, progress: float, gap: float) -> tuple[float, float]:
        start = self.task_fall_from
        fallen = linear_ramp(progress, start, 1 - start) if start < 1 else 0.0
        return 1 - (1 - self.task_floor) * fallen, min(1.0, max(0.0, gap / self.scale))

    def _problems(self) -> list[str]:
        holds = math.isfinite(self.scale) and self.scale > 0
        rule = f"scale={self.scale!r} must be a finite number above 0; 0.2 is usual."
        return [
            *super()._problems(),
            *([] if holds else [rule]),
            *_outside_unit("task_fall_from", self.task_fall_from),
            *_outside_unit("task_floor", self.task_floor),
        ]


@LOSS_WEIGHTS.register("uncertainty", ranges={"largest_weight": {"log_uniform": [2.0, 100.0]}})
class Uncertainty(nn.Module):
    """Weights learned with the network: exp(-s) times each loss plus s, with one s a loss.

    Kendall et al., "Multi-Task Learning Using Uncertainty to Weigh Losses", 2018, https://arxiv.org/abs/1705.07115,
    eq. 7 with s = log sigma^2, doubled; s settles where exp(s) is the loss. Departures: the form for regression is
    used for every loss, also for the task, where eq. 10 has s / 2; and s is kept within +- log(largest_weight). The
    paper assumes that losses are negative log-likelihoods and cannot fall below 0. For one that does (`im`, `bnm`) the
    sum has no minimum: s would fall for ever. Here its weight rises to `largest_weight` and stays there, so for such
    a method a schedule is the better choice.

    The bound is a projection before each use, not a clamp within it: a clamp has no gradient beyond the bound, and an
    s that went there would never come back.

    Args:
        largest_weight: Each weight lies between its inverse and this, a finite number above 1.

    Attributes:
        log_variances: s by `LOSS_NAMES`, [4], from 0; that of a loss which a method does not give has gradient 0.

    Raises:
        InvalidInput: If `largest_weight` breaks its rule.
    """

    def __init__(self, *, largest_weight: float = 10.0) -> None:
        super().__init__()
        if not (math.isfinite(largest_weight) and largest_weight > 1):
            raise InvalidInput(
                f"uncertainty.largest_weight={largest_weight!r} must be a finite number above 1; 10 is usual, and the "
                "weighting 'constant' keeps all weights fixed."
            )
        self.bound = math.log(largest_weight)
        # One tensor for all names: an entry that is not used still gets a gradient, which DDP waits for.
        self.log_variances = nn.Parameter(torch.zeros(len(LOSS_NAMES)))

    def weights(self, progress: float, names: Iterable[str], gap: float = 0.0) -> dict[str, float]:
        names = list(names)
        chosen = self.log_variances.detach()[_positions(names)].clamp(-self.bound, self.bound)
        return dict(zip(names, torch.exp(-chosen).tolist(), strict=True))

    def combine(self, losses: Mapping[str, Tensor], progress: float, gap: float) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            self.log_variances.clamp_(-self.bound, self.bound)
        chosen = self.log_variances[_positions(losses)]
        total = (torch.exp(-chosen) * torch.stack(list(losses.values())) + chosen).sum()
        return total, self.weights(progress, losses)


def _positions(names: Iterable[str]) -> list[int]:
    return [LOSS_NAMES.index(name) for name in names]


def _outside_unit(field: str, value: float) -> list[str]:
    return [] if 0 <= value <= 1 else [f"{field}={value!r} must lie in 0..1; it is a share of the whole training."]
