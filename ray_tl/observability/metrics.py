"""The one table of metrics: what a search exports, and what a dashboard may draw.

Ray puts `ray_` before the name of every user metric, so `tl_trial_score` is scraped as `ray_tl_trial_score`.
"""

import re
from dataclasses import dataclass
from typing import Literal

RAY_PREFIX = "ray_"
TRIAL_STATES = ("running", "complete", "pruned", "failed", "infeasible")
SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)

Kind = Literal["gauge", "counter", "histogram"]
Unit = Literal["none", "short", "s"]


@dataclass(frozen=True)
class Metric:
    """One metric; `unit` is Grafana's name of it, and every histogram is in seconds, over `SECONDS_BUCKETS`."""

    name: str
    kind: Kind
    description: str
    unit: Unit
    labels: tuple[str, ...]

    @property
    def exported(self) -> str:
        """The name as Prometheus knows it; a histogram's series are this with `_bucket`, `_sum` and `_count`."""
        return RAY_PREFIX + self.name

    @property
    def series(self) -> tuple[str, ...]:
        """Every name under which Prometheus stores samples of it."""
        if self.kind != "histogram":
            return (self.exported,)
        return tuple(self.exported + suffix for suffix in ("_bucket", "_sum", "_count"))


METRICS: tuple[Metric, ...] = (
    Metric("tl_trial_score", "gauge", "Latest score of a running trial", "none", ("study", "trial")),
    Metric("tl_trial_epoch", "gauge", "Epochs that a running trial has finished", "short", ("study", "trial")),
    Metric(
        "tl_trial_validator_score",
        "gauge",
        "Latest score of a running trial by one validator",
        "none",
        ("study", "trial", "validator"),
    ),
    Metric("tl_trial_loss", "gauge", "Latest value of one loss of a running trial", "none", ("study", "trial", "loss")),
    Metric(
        "tl_trial_loss_weight", "gauge", "Weight of one loss of a running trial", "none", ("study", "trial", "loss")
    ),
    Metric("tl_trials", "gauge", "Trials of the study in a state", "short", ("study", "state")),
    Metric("tl_best_score", "gauge", "Best score of a trial that ran to full fidelity", "none", ("study",)),
    Metric("tl_slots", "gauge", "Slots that the search holds", "short", ("study",)),
    Metric("tl_slots_busy", "gauge", "Slots that are training a trial", "short", ("study",)),
    Metric("tl_slot_restarts_total", "counter", "Restarts of a slot's worker group", "short", ("study", "slot")),
    Metric("tl_queue_length", "gauge", "Trials that wait for a slot", "short", ("study",)),
    Metric("tl_epoch_seconds", "histogram", "Wall-clock time of one epoch with its validation", "s", ("study",)),
    Metric("tl_trial_seconds", "histogram", "Wall-clock time of one trial from first to last report", "s", ("study",)),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


def metric(name: str) -> Metric:
    """The metric called `name`, which must be in the table."""
    assert name in _BY_NAME, f"{name!r} is not in the metric table"
    return _BY_NAME[name]


def names_in(expression: str) -> set[str]:
    """The metric names of this library that a PromQL expression reads."""
    return set(re.findall(rf"\b{RAY_PREFIX}tl_\w+", expression))
