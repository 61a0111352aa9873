"""What a search tells Prometheus, sample by sample."""

from collections.abc import Iterator, Mapping

import pytest

from ray_tl.config import Component, TrialConfig
from ray_tl.observability.metrics import METRICS, Metric
from ray_tl.on_ray.metrics import MetricsExporter
from ray_tl.on_ray.search_metrics import SearchMetrics
from ray_tl.on_ray.trial_queue import QueueStatus
from ray_tl.study.records import EpochRecord, TrialRecord, TrialState

CONFIG = TrialConfig(backbone=Component(name="tiny_cnn"), epochs=1)
EPOCH = EpochRecord(
    epoch=1,
    objective=0.7,
    scores={"im": 1.5},
    histogram=[0.5, 0.5],
    losses={"task": 0.3, "domain": 0.2},
    weights={"task": 1.0, "domain": 0.4},
    freeze_depth=0,
    lr=0.1,
    seconds=2.5,
)


class Samples:
    """Takes samples where Ray would."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        self.taken[metric.name, tuple(sorted(labels.items()))] = value

    def of(self, name: str, **labels: str) -> float:
        return self.taken[name, tuple(sorted({"study": "s", **labels}.items()))]


@pytest.fixture
def samples() -> Samples:
    return Samples()


@pytest.fixture
def metrics(samples: Samples) -> Iterator[SearchMetrics]:
    metrics = SearchMetrics("s", MetricsExporter(interval_s=60, instruments=samples), [])
    yield metrics
    metrics.close()


def test_finished_epoch_gives_scores_losses_and_weights(metrics, samples):
    metrics.trial_changed(TrialRecord(3, TrialState.RUNNING, CONFIG, [EPOCH]))
    assert samples.of("tl_trial_score", trial="3") == 0.7
    assert samples.of("tl_trial_validator_score", trial="3", validator="im") == 1.5
    assert samples.of("tl_trial_loss", trial="3", loss="domain") == 0.2
    assert samples.of("tl_trial_loss_weight", trial="3", loss="domain") == 0.4
    assert samples.of("tl_epoch_seconds") == 2.5


def test_ended_trial_is_counted_and_may_be_the_best(metrics, samples):
    metrics.trial_changed(TrialRecord(0, TrialState.COMPLETE, CONFIG, [EPOCH]))
    assert samples.of("tl_trials", state="complete") == 1
    assert samples.of("tl_trials", state="running") == 0
    assert samples.of("tl_best_score") == 0.7
    assert samples.of("tl_trial_seconds") == 2.5


def test_slot_restarts_are_counted_once_each(metrics, samples):
    metrics.slots_changed(2, QueueStatus(waiting=1, up=frozenset(), busy={0: 5}), {0: 2})
    metrics.slots_changed(2, QueueStatus(waiting=1, up=frozenset(), busy={0: 5}), {0: 3})
    assert samples.of("tl_slots") == 2
    assert samples.of("tl_slots_busy") == 1
    assert samples.of("tl_slot_restarts_total", slot="0") == 1


def test_a_search_fills_every_metric_of_the_table(metrics, samples):
    metrics.trial_changed(TrialRecord(0, TrialState.RUNNING, CONFIG, [EPOCH]))
    metrics.trial_changed(TrialRecord(0, TrialState.COMPLETE, CONFIG, [EPOCH]))
    metrics.slots_changed(1, QueueStatus(waiting=0, up=frozenset(), busy={}), {0: 1})
    assert {name for name, _ in samples.taken} == {metric.name for metric in METRICS}
