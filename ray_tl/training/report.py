"""What a trial says after each epoch, and what it is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

BEFORE = "_before"  # training


@dataclass(frozen=True)
class EpochReport:
    """Plain numbers about one finished epoch; they cross processes and are stored.

    Attributes:
        epoch: Epochs finished, counted from 1.
        scores: Label-free score by validator.
        histogram: Share of each class among the predictions on the target, [C].
        losses: Mean of each named loss over the epoch and all ranks.
        weights: Weight of each named loss at the end of the epoch.
        freeze_depth: Stages that were frozen.
        lr: Base learning rate at the end of the epoch.
        seconds: Wall time of the epoch, its evaluation included.
        gap: Mean confidence on the source hold-out less that on the target, in [-1, 1].
        health: What the doctor measured: `gradient_NAME` of each weighted loss and `gradient_ratio` of adaptation to
            task; with gradient masking `gradient_conflict`, how often a gradient opposed the task, and
            `gradient_removed`, the share of its length that went; `domain_accuracy`, `mmd` and `coral` between the
            domains, now and `_before` training; `histogram_drift` from the source's classes.
        findings: What the doctor has to say about it, in words.
        cached_stages: Stages that came from the activation cache instead of being computed.
        source_recalls: Share of each class of the source hold-out that is recognised, [C]; `None` where there is none.
    """

    epoch: int
    scores: dict[str, float]
    histogram: list[float]
    losses: dict[str, float]
    weights: dict[str, float]
    freeze_depth: int
    lr: float
    seconds: float
    gap: float = 0.0
    health: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    cached_stages: int = 0
    source_recalls: list[float | None] = field(default_factory=list)


def before(gap: Mapping[str, float]) -> dict[str, float]:
    """The gap between the domains under the names by which it is remembered."""
    return {f"{name}{BEFORE}": value for name, value in gap.items()}


class Report(Protocol):
    """Takes an epoch's report and says whether to stop: a list in tests, the trial queue on a cluster."""

    def __call__(self, report: EpochReport) -> bool: ...
