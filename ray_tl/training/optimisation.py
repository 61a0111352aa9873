"""Optimisers, and learning-rate schedules as pure functions of progress and of past scores."""

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry

OptimizerFactory = Callable[[list[dict]], Optimizer]

OPTIMIZERS: Registry["OptimizerChoice"] = Registry("optimiser")
LR_SCHEDULES: Registry["Schedule"] = Registry("learning-rate schedule")
DECAY = {"log_uniform": [1e-6, 1e-2]}
ROUNDING = 1e-9  # of progress: 7 / 10 has reached 7 times 0.1


def _without_compiler() -> None:
    """Optimizers can be made without importing torch's compiler.

    To make one imports `torch._dynamo`, one to three seconds, only to exempt this method from compilation. Where
    nothing is compiled, as in the process that plans a search, that is for nothing. The attribute is torch's own cache
    of the exemption; a release that has another name for it just imports as before.
    """
    method = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", None)
    if method is not None and "torch._dynamo" not in sys.modules:
        method.__dict__.setdefault("__dynamo_disable", method)


_without_compiler()


class OptimizerChoice:
    """A learning rate, and how to build the optimiser once the parameter groups are known.

    Args:
        lr: Base learning rate; a group's is `lr` times its multiplier.
        build: From parameter groups.
        decay_all: Whether scales, shifts and biases decay too; else matrices and kernels alone.

    Raises:
        InvalidInput: If the optimiser would refuse a parameter.
    """

    def __init__(self, lr: float, build: OptimizerFactory, decay_all: bool = True) -> None:
        if not lr > 0:
            raise InvalidInput(f"optimizer.lr={lr} must be above 0; freeze stages to keep them as they are.")
        try:
            build([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr}])
        except ValueError as error:
            raise InvalidInput(f"optimizer: {error}; see its parameters with: ray-tl components optimizer") from error
        self.lr = lr
        self.build = build
        self.decay_all = decay_all

    def groups(self, groups: Sequence[Any]) -> list[dict]:
        """The groups, each parted into what decays and what does not, if not all does.

        What has one dimension does not: scales and shifts of normalisation, and biases (He et al., "Bag of Tricks",
        2019, https://arxiv.org/abs/1812.01187, section 3.1).
        """
        if self.decay_all:
            return [dict(group) for group in groups]
        parted: list[dict] = []
        for group in groups:
            flat = [value for value in group["params"] if value.ndim <= 1]
            parted.append({**group, "params": [value for value in group["params"] if value.ndim > 1]})
            parted.append({**group, "params": flat, "name": f"{group['name']} (no decay)", "weight_decay": 0.0})
        return parted


@OPTIMIZERS.register("adamw", ranges={"lr": {"log_uniform": [1e-4, 1e-2]}, "weight_decay": DECAY})
def adamw(*, lr: float = 1e-3, weight_decay: float = 1e-4, decay_all: bool = True) -> OptimizerChoice:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""
    return OptimizerChoice(lr, partial(torch.optim.AdamW, lr=lr, weight_decay=weight_decay), decay_all)


@OPTIMIZERS.register("sgd", ranges={"lr": {"log_uniform": [1e-3, 1e-1]}, "weight_decay": DECAY})
def sgd(
    *, lr: float = 1e-2, weight_decay: float = 1e-4, momentum: float = 0.9, decay_all: bool = True
) -> OptimizerChoice:
    """Stochastic gradient descent with Nesterov momentum."""
    build = partial(torch.optim.SGD, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=momentum > 0)
    return OptimizerChoice(lr, build, decay_all)


@OPTIMIZERS.register("adam", ranges={"lr": {"log_uniform": [1e-4, 1e-2]}, "weight_decay": DECAY})
def adam(*, lr: float = 1e-3, weight_decay: float = 0.0, decay_all: bool = True) -> OptimizerChoice:
    """Adam; its weight decay is a penalty in the gradient (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980)."""
    return OptimizerChoice(lr, partial(torch.optim.Adam, lr=lr, weight_decay=weight_decay), decay_all)


@OPTIMIZERS.register("nadam", ranges={"lr": {"log_uniform": [1e-4, 1e-2]}, "weight_decay": DECAY})
def nadam(*, lr: float = 2e-3, weight_decay: float = 1e-4, decay_all: bool = True) -> OptimizerChoice:
    """Adam with Nesterov momentum (Dozat, 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."""
    build = partial(torch.optim.NAdam, lr=lr, weight_decay=weight_decay, decoupled_weight_decay=True)
    return OptimizerChoice(lr, build, decay_all)


@OPTIMIZERS.register("radam", ranges={"lr": {"log_uniform": [1e-4, 1e-2]}, "weight_decay": DECAY})
def radam(*, lr: float = 1e-3, weight_decay: float = 1e-4, decay_all: bool = True) -> OptimizerChoice:
    """Rectified Adam, a warm-up of its own (Liu et al., 2020, https://arxiv.org/abs/1908.03265), decay decoupled."""
    build = partial(torch.optim.RAdam, lr=lr, weight_decay=weight_decay, decoupled_weight_decay=True)
    return OptimizerChoice(lr, build, decay_all)


@OPTIMIZERS.register("adamax", ranges={"lr": {"log_uniform": [1e-4, 1e-2]}, "weight_decay": DECAY})
def adamax(*, lr: float = 2e-3, weight_decay: float = 0.0, decay_all: bool = True) -> OptimizerChoice:
    """Adam by the largest gradient so far (Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, section 7.1)."""
    return OptimizerChoice(lr, partial(torch.optim.Adamax, lr=lr, weight_decay=weight_decay), decay_all)


@OPTIMIZERS.register("rmsprop", ranges={"lr": {"log_uniform": [1e-5, 1e-3]}, "weight_decay": DECAY})
def rmsprop(
    *, lr: float = 1e-4, weight_decay: float = 0.0, momentum: float = 0.0, decay_all: bool = True
) -> OptimizerChoice:
    """Gradients over the root of their mean square (Hinton, 2012, lecture 6e of "Neural Networks")."""
    build = partial(torch.optim.RMSprop, lr=lr, weight_decay=weight_decay, momentum=momentum)
    return OptimizerChoice(lr, build, decay_all)


@OPTIMIZERS.register("adagrad", ranges={"lr": {"log_uniform": [1e-3, 1e-1]}, "weight_decay": DECAY})
def adagrad(*, lr: float = 1e-2, weight_decay: float = 0.0, decay_all: bool = True) -> OptimizerChoice:
    """Gradients over the root of the sum of their squares (Duchi et al., 2011, https://jmlr.org/papers/v12/duchi11a)."""
    return OptimizerChoice(lr, partial(torch.optim.Adagrad, lr=lr, weight_decay=weight_decay), decay_all)


class Schedule(Protocol):
    """Share of the full learning rate."""

    def __call__(self, progress: float, history: Sequence[float] = ()) -> float:
        """At least 0; 1 is the full rate.

        Args:
            progress: In [0, 1] of full fidelity.
            history: Label-free objective of each finished epoch, higher is better; most schedules don't look at it.
        """
        ...


@LR_SCHEDULES.register("constant")
def constant(*, warmup: float = 0.0) -> Schedule:
    """The full rate throughout, after a linear warm-up over the first share `warmup` of progress."""
    return _after_warmup(warmup, lambda progress: 1.0)


@LR_SCHEDULES.register("cosine", ranges={"warmup": {"uniform": [0.0, 0.2]}})
def cosine(*, warmup: float = 0.05) -> Schedule:
    """Half a cosine from the full rate to zero (Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983)."""
    return _after_warmup(warmup, lambda progress: (1 + math.cos(math.pi * progress)) / 2)


@LR_SCHEDULES.register("linear", ranges={"warmup": {"uniform": [0.0, 0.2]}})
def linear(*, warmup: float = 0.05) -> Schedule:
    """A straight line from the full rate to zero."""
    return _after_warmup(warmup, lambda progress: 1 - progress)


@LR_SCHEDULES.register("inverse_decay", ranges={"warmup": {"uniform": [0.0, 0.2]}})
def inverse_decay(*, alpha: float = 10.0, beta: float = 0.75, warmup: float = 0.0) -> Schedule:
    """(1 + alpha p)^-beta, as in DANN (Ganin et al., 2016, https://arxiv.org/abs/1505.07818, section 5.2.2)."""
    return _after_warmup(warmup, lambda progress: (1 + alpha * progress) ** -beta)


@LR_SCHEDULES.register(
    "step",
    ranges={"every": {"uniform": [0.2, 0.5]}, "gamma": {"log_uniform": [0.05, 0.5]}, "warmup": {"uniform": [0.0, 0.2]}},
)
def step(*, every: float = 1 / 3, gamma: float = 0.1, warmup: float = 0.0) -> Schedule:
    """Times `gamma` after each share `every`, above 0, of the progress behind the warm-up."""
    _require_share("step.every", every)
    _require_share("step.gamma", gamma)
    return _after_warmup(warmup, lambda progress: gamma ** math.floor(progress / every + ROUNDING))


@LR_SCHEDULES.register("exponential", ranges={"last": {"log_uniform": [1e-3, 0.3]}, "warmup": {"uniform": [0.0, 0.2]}})
def exponential(*, last: float = 0.01, warmup: float = 0.0) -> Schedule:
    """By the same factor at every step, down to the share `last` of the full rate at the end."""
    _require_share("exponential.last", last)
    return _after_warmup(warmup, lambda progress: last**progress)


@LR_SCHEDULES.register("one_cycle", ranges={"warmup": {"uniform": [0.1, 0.5]}})
def one_cycle(*, warmup: float = 0.3, first: float = 0.04, last: float = 4e-6) -> Schedule:
    """Up along half a cosine over the share `warmup`, then down along another, close to zero.

    Smith and Topin, "Super-Convergence", 2018, https://arxiv.org/abs/1708.07120, with cosines instead of lines as in
    fastai, and the momentum left alone.

    Args:
        warmup: Of progress, in (0, 1).
        first: Share of the full rate at the beginning, in (0, 1].
        last: At the end, in (0, 1].
    """
    _require_share("one_cycle.first", first)
    _require_share("one_cycle.last", last)
    if not 0 < warmup < 1:
        raise InvalidInput(f"one_cycle.warmup={warmup} must be above 0 and below 1; 0.3 is usual.")

    def factor(progress: float, history: Sequence[float] = ()) -> float:
        if progress < warmup:
            return _along_cosine(first, 1.0, progress / warmup)
        return _along_cosine(1.0, last, (progress - warmup) / (1 - warmup))

    return factor


@LR_SCHEDULES.register(
    "plateau",
    ranges={"factor": {"log_uniform": [0.1, 0.5]}, "patience": {"int": [0, 3]}, "warmup": {"uniform": [0.0, 0.2]}},
)
def plateau(*, factor: float = 0.3, patience: int = 1, min_improvement: float = 1e-4, warmup: float = 0.0) -> Schedule:
    """Times `factor` whenever the label-free objective has not improved for more than `patience` epochs.

    Args:
        factor: In (0, 1].
        patience: Epochs without improvement that are borne, >= 0.
        min_improvement: A smaller one is none; the objective is in [0, 1], less 1 if predictions have collapsed.
        warmup: Share of progress.
    """
    _require_share("plateau.factor", factor)
    if patience < 0:
        raise InvalidInput(f"plateau.patience={patience} must be 0 or more epochs.")
    warm = constant(warmup=warmup)

    def share(progress: float, history: Sequence[float] = ()) -> float:
        return warm(progress) * factor ** _plateaus(history, patience, min_improvement)

    return share


def set_learning_rates(optimizer: Optimizer, base: list[float], factor: float) -> None:
    """Each group's rate becomes `base` of that group times `factor`: real rates, never a scale beside them."""
    for group, lr in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = lr * factor


def _after_warmup(warmup: float, after: Callable[[float], float]) -> Schedule:
    if not 0 <= warmup < 1:
        raise InvalidInput(f"lr_schedule.warmup={warmup} must be in [0, 1): it is a share of the whole trial.")

    def factor(progress: float, history: Sequence[float] = ()) -> float:
        if progress < warmup:
            return (progress + 1e-3) / (warmup + 1e-3)
        return after((progress - warmup) / (1 - warmup))

    return factor


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _plateaus(history: Sequence[float], patience: int, min_improvement: float) -> int:
    """How often the best value has not been improved on for more than `patience` epochs."""
    best, waited, found = -math.inf, 0, 0
    for value in history:
        best, waited = (value, 0) if value > best + min_improvement else (best, waited + 1)
        if waited > patience:
            waited, found = 0, found + 1
    return found


def _require_share(field: str, value: float) -> None:
    if not 0 < value <= 1:
        raise InvalidInput(f"{field}={value} is out of range; choose above 0, up to 1.")
