"""What is wrong with a trial while it trains, without a label of the target: measurements, and findings in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_tl.adaptation.alignment import whole_coral_distance, whole_mmd_distance
from ray_tl.collectives import world_size

if TYPE_CHECKING:
    from ray_tl.training.report import EpochReport

ROWS_A_HALF = 256
RIDGE = 1e-2
DROWNING, IDLE = 30.0, 1e-3
TOLD_APART, DRIFTED = 0.95, 0.4
OPPOSED = 0.5


def domain_accuracy(source: Tensor, target: Tensor) -> float:
    """How well a linear classifier tells the domains apart, in [0, 1]; 0.5 is chance, both domains weighing the same.

    The proxy A-distance of Ben-David et al., "Analysis of Representations for Domain Adaptation", 2006, is
    2 (2 a - 1) for this accuracy a. The classifier is ridge regression on standardised features, fitted to the even
    rows of each domain and scored on the odd ones, at most 256 of each.

    Args:
        source: Features [N, D], N >= 2.
        target: Features [M, D], M >= 2.
    """
    rows = min(len(source), len(target), 2 * ROWS_A_HALF) // 2 * 2
    source, target = source[:rows].double(), target[:rows].double()
    fitted = torch.cat([source[::2], target[::2]])
    mean, scale = fitted.mean(0), fitted.std(0).clamp_min(torch.finfo(torch.float32).eps)
    signs = torch.cat([torch.ones(rows // 2), -torch.ones(rows // 2)]).double()
    directions = _ridge((fitted - mean) / scale, signs)
    unseen = (torch.cat([source[1::2], target[1::2]]) - mean) / scale @ directions
    return float((unseen * signs > 0).double().mean() + (unseen == 0).double().mean() / 2)


def domain_gap(source: Tensor, target: Tensor) -> dict[str, float]:
    """How far the domains are apart by their features: `domain_accuracy`, `mmd` and `coral`; finite ones alone.

    The distances are those that methods train on, of at most 512 rows of each domain, here in units of the spread of
    all features together: longer features alone put no domains further apart.

    Args:
        source: Features [N, D], N >= 2.
        target: Features [M, D], M >= 2.
    """
    rows = min(len(source), len(target), 2 * ROWS_A_HALF)
    both = torch.cat([source[:rows], target[:rows]]).double()
    spread = both.var(0).mean().sqrt().clamp_min(torch.finfo(torch.float32).eps)
    scaled = (both / spread).split(rows)
    found = {
        "domain_accuracy": domain_accuracy(source, target),
        "mmd": float(whole_mmd_distance(*scaled)),
        "coral": float(whole_coral_distance(*scaled)),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def gradient_norms(
    losses: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
) -> dict[str, float]:
    """Length of the gradient of each weighted loss on these parameters, of the joined batch of all ranks."""
    return {name: _norm(weights[name] * loss, parameters) for name, loss in losses.items()}


def drift(histogram: Iterable[float], reference: Iterable[float]) -> float:
    """Total variation distance of two class histograms, in [0, 1]."""
    return sum(abs(a - b) for a, b in zip(histogram, reference, strict=True)) / 2


def findings(
    report: "EpochReport", progress: float, aligns_features: bool, idle_losses: Sequence[str] = ()
) -> list[str]:
    """What a person should know about an epoch, each with its figure and a remedy; mostly nothing.

    Args:
        report: Of the epoch, measured.
        progress: At its end, in [0, 1]; some illnesses are none before half of it.
        aligns_features: Whether the method means to make the domains alike.
        idle_losses: Those of which the method says that they do not count now.
    """
    health, found = report.health, []
    for name, weight in report.weights.items():
        counts = weight > 0 and name not in idle_losses
        if counts and progress > 0.5 and health.get(f"gradient_{name}") == 0:  # some losses begin late
            found.append(f"loss {name!r} has zero gradient: it trains nothing; change the method or its parameters.")
    ratio = health.get("gradient_ratio")
    if ratio is not None and ratio > DROWNING:
        found.append(f"adaptation pulls {ratio:.0f} times as hard as the task; lower the weight of its loss.")
    if ratio is not None and 0 < ratio < IDLE and progress > 0.5:
        found.append(f"adaptation pulls {ratio:.1e} times as hard as the task, next to nothing; raise its weight.")
    removed = health.get("gradient_removed", 0.0)
    if removed > OPPOSED:
        found.append(
            f"adaptation opposes the task: masking took away {removed:.0%} of its gradient; choose another method, or "
            "train other stages."
        )
    if aligns_features and progress > 0.5 and health["domain_accuracy"] > TOLD_APART:
        found.append(
            f"source and target are still told apart ({health['domain_accuracy']:.0%} by a linear classifier, "
            f"{health['domain_accuracy_before']:.0%} before training); raise the weight of the domain loss, or train "
            "more stages."
        )
    if health["histogram_drift"] > DRIFTED:
        remedy = "lower the weight of the adaptation" if report.weights else "choose another method"
        found.append(
            f"predictions on the target differ from the source's classes by {health['histogram_drift']:.0%}; some "
            f"classes may have been given up: {remedy}, or expect such a shift."
        )
    return found


def _ridge(rows: Tensor, targets: Tensor) -> Tensor:
    """Weights [D] of ridge regression, by the system of the rows, of which there are few."""
    gram = rows @ rows.T / rows.shape[1]
    penalty = RIDGE * torch.eye(len(rows), dtype=rows.dtype)
    return rows.T @ torch.linalg.solve(gram + penalty, targets) / rows.shape[1]


def _norm(loss: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    if not loss.requires_grad:  # of frozen features alone, for example
        return 0.0
    slopes = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    flat = [torch.zeros_like(part) if slope is None else slope for part, slope in zip(parameters, slopes, strict=True)]
    joined = torch.cat([part.flatten() for part in flat])
    if world_size() > 1:
        dist.all_reduce(joined)
        joined = joined / world_size()
    return float(torch.linalg.vector_norm(joined))
