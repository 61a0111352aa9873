"""Optimisers, and learning-rate schedules as pure functions of progress."""

import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer

from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry

OptimizerFactory = Callable[[list[dict]], Optimizer]
Schedule = Callable[[float], float]

OPTIMIZERS: Registry["OptimizerChoice"] = Registry("optimiser")
LR_SCHEDULES: Registry[Schedule] = Registry("learning-rate schedule")


class OptimizerChoice:
    """A learning rate, and how to build the optimiser once the parameter groups are known.

    Args:
        lr: Base learning rate; a group's is `lr` times its multiplier.
        build: From parameter groups.
    """

    def __init__(self, lr: float, build: OptimizerFactory) -> None:
        if not lr > 0:
            raise InvalidInput(f"optimizer.lr={lr} must be above 0; freeze stages to keep them as they are.")
        self.lr = lr
        self.build = build


@OPTIMIZERS.register(
    "adamw", ranges={"lr": {"log_uniform": [1e-4, 1e-2]}, "weight_decay": {"log_uniform": [1e-6, 1e-2]}}
)
def adamw(*, lr: float = 1e-3, weight_decay: float = 1e-4) -> OptimizerChoice:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""
    return OptimizerChoice(lr, lambda groups: torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay))


@OPTIMIZERS.register("sgd", ranges={"lr": {"log_uniform": [1e-3, 1e-1]}, "weight_decay": {"log_uniform": [1e-6, 1e-2]}})
def sgd(*, lr: float = 1e-2, weight_decay: float = 1e-4, momentum: float = 0.9) -> OptimizerChoice:
    """Stochastic gradient descent with Nesterov momentum."""
    return OptimizerChoice(
        lr,
        lambda groups: torch.optim.SGD(
            groups, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=momentum > 0
        ),
    )


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


@LR_SCHEDULES.register("inverse_decay")
def inverse_decay(*, alpha: float = 10.0, beta: float = 0.75) -> Schedule:
    """(1 + alpha p)^-beta, as in DANN (Ganin et al., 2016, https://arxiv.org/abs/1505.07818, section 5.2.2)."""
    return lambda progress: (1 + alpha * progress) ** -beta


def set_learning_rates(optimizer: Optimizer, base: list[float], factor: float) -> None:
    """Each group's rate becomes `base` of that group times `factor`: real rates, never a scale beside them."""
    for group, lr in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = lr * factor


def _after_warmup(warmup: float, after: Schedule) -> Schedule:
    if not 0 <= warmup < 1:
        raise InvalidInput(f"lr_schedule.warmup={warmup} must be in [0, 1): it is a share of the whole trial.")

    def factor(progress: float) -> float:
        if progress < warmup:
            return (progress + 1e-3) / (warmup + 1e-3)
        return after((progress - warmup) / (1 - warmup))

    return factor
