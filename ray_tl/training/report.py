"""What a trial says after each epoch, and what it is told."""

from dataclasses import dataclass, field
from typing import Protocol


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
            `gradient_removed`, the share of its length that went; `domain_accuracy`, now and `_before` training;
            `histogram_drift` from the source's classes.
        findings: What the doctor has to say about it, in words.
        cached_stages: Stages that came from the activation cache instead of being computed.
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


class Report(Protocol):
    """Takes an epoch's report and says whether to stop: a list in tests, the trial queue on a cluster."""

    def __call__(self, report: EpochReport) -> bool: ...
