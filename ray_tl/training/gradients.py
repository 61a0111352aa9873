"""From the losses of a step to the gradients that the optimiser sees: summed, or without what opposes the task."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_tl.collectives import world_size
from ray_tl.registry import Registry
from ray_tl.training.task import AdaptationTask, StepLosses

Scope = Literal["network", "stage"]


def without_conflict(gradient: Tensor, task: Tensor) -> Tensor:
    """A gradient less its projection on the task's, if the two point in opposite directions; otherwise itself.

    Yu et al., "Gradient Surgery for Multi-Task Learning" (PCGrad), 2020, https://arxiv.org/abs/2001.06782, section 2.3:
    g - (g . t / ||t||^2) t where g . t < 0. Departure: the task's gradient stays whole, since a gain for the adaptation
    that costs the task is what negative transfer is.

    Args:
        gradient: [P].
        task: [P]; a task without gradient opposes nothing.
    """
    return gradient - _opposition(gradient, task) * task


class GradientMasking(Protocol):
    """Fills `grad` of everything that trains.

    Attributes:
        joins_ranks: Whether it sums over ranks itself; then the task must not be wrapped in DDP.
    """

    joins_ranks: bool

    def backward(self, task: AdaptationTask, losses: StepLosses) -> None:
        """After it, every parameter that trains and that a loss reaches has the gradient of the joint batch."""

    def figures(self) -> dict[str, float]:
        """What it has measured since it was last asked, the same on every rank."""


GRADIENT_MASKING: Registry[GradientMasking] = Registry("gradient masking")


@GRADIENT_MASKING.register("none")
class Unmasked:
    """All losses pull, whether they agree or not."""

    joins_ranks = False

    def backward(self, task: AdaptationTask, losses: StepLosses) -> None:
        torch.autograd.backward(losses.total)

    def figures(self) -> dict[str, float]:
        return {}


@GRADIENT_MASKING.register("project", ranges={"scope": {"choice": ["network", "stage"]}})
class Projected:
    """What opposes the task is removed from the gradient of the adaptation: masking against negative transfer.

    Yu et al., 2020, https://arxiv.org/abs/2001.06782; see `without_conflict`. Where labelled target examples have a
    part in the task loss, theirs is the gradient that stays whole: what opposes it is removed from the source's, and
    what opposes both from that of the adaptation. Learned loss weights, discriminators and whatever else the task does
    not reach keep their gradients, and so does the regulariser, which opposes the task on purpose. The gradients are
    those of the joint batch of all ranks, micro-batch by micro-batch, before anything is removed. It costs one backward
    pass for each part.

    Args:
        scope: Over what gradients are compared: the whole `network`, or each `stage` and the head by itself.
    """

    joins_ranks = True

    def __init__(self, *, scope: Scope = "network") -> None:
        self.scope = scope
        self._opposed: list[Tensor] = []
        self._removed: list[Tensor] = []

    def backward(self, task: AdaptationTask, losses: StepLosses) -> None:
        trained = {name: value for name, value in task.named_parameters() if value.requires_grad}
        parts = [part for part in losses.parts() if part.requires_grad]
        reached, joint = _joint_gradients(parts, list(trained.values()))
        kept = torch.zeros_like(joint[0])
        for place in _places(trained, self.scope):
            kept[place] = self._reconciled([row[place] for row in joint])
        if losses.regulariser is not None and losses.regulariser.requires_grad:  # not so of frozen features
            also, pull = _joint_gradients([losses.regulariser], list(trained.values()))
            reached = [one or other for one, other in zip(reached, also, strict=True)]
            kept += pull[0]
        pieces = kept.split([value.numel() for value in trained.values()])
        for value, piece, is_reached in zip(trained.values(), pieces, reached, strict=True):
            if is_reached:
                piece = piece.view(value.shape)
                value.grad = piece if value.grad is None else value.grad + piece

    def figures(self) -> dict[str, float]:
        """How often a gradient opposed the task, and which share of its length was removed, both in [0, 1]."""
        found = {"gradient_conflict": self._opposed, "gradient_removed": self._removed}
        means = {name: float(torch.stack(values).nanmean()) for name, values in found.items() if values}
        self._opposed, self._removed = [], []
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}  # a task alone has no conflict

    def _reconciled(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum of gradients, each without what opposes those before it."""
        total = parts[0]
        for gradient in parts[1:]:
            opposition = _opposition(gradient, total)
            length, whole = gradient.norm(), total.norm()
            counts = torch.where((length > 0) & (whole > 0), 1.0, torch.nan)
            self._opposed.append((opposition < 0) * counts)
            self._removed.append(-opposition * whole / length * counts)
            total = total + (gradient - opposition * total)
        return total


def _opposition(gradient: Tensor, task: Tensor) -> Tensor:
    """g . t / ||t||^2 where that is below 0, otherwise 0; a scalar."""
    squared = task.dot(task)
    return torch.where(squared > 0, gradient.dot(task).clamp(max=0) / squared, 0.0)


def _joint_gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> tuple[list[bool], Tensor]:
    """Which parameters any of these losses reaches, and the gradients [L, P] of the joint batch of all ranks."""
    slopes = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    reached = [any(slope is not None for slope in column) for column in zip(*slopes, strict=True)]
    joint = torch.stack([_flat(row, parameters) for row in slopes])
    if world_size() > 1:
        dist.all_reduce(joint)
        joint /= world_size()
    return reached, joint


def _flat(slopes: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    whole = [
        torch.zeros_like(value) if slope is None else slope for slope, value in zip(slopes, parameters, strict=True)
    ]
    return torch.cat([slope.reshape(-1) for slope in whole])


def _places(trained: dict[str, nn.Parameter], scope: Scope) -> list[slice]:
    """Entries, of those of all parameters side by side, that are compared together."""
    found, begin = [], 0
    for _, names in groupby(trained, partial(_group, scope=scope)):
        end = begin + sum(trained[name].numel() for name in names)
        found.append(slice(begin, end))
        begin = end
    return found


def _group(name: str, scope: Scope) -> str:
    """`model.backbone.stages.3` for what is below it, `head` for the rest of the model, `method` for what is beside."""
    if scope == "network":
        return "all"
    words = name.split(".")
    if words[:3] == ["model", "backbone", "stages"]:
        return ".".join(words[:4])
    return "head" if words[0] == "model" else "method"
