"""The metric table, exported through Ray's metrics agents for Prometheus to scrape."""

import math
import threading
from collections.abc import Mapping
from typing import Protocol

from ray.util import metrics as ray_metrics

from ray_tl.observability.metrics import METRICS, SECONDS_BUCKETS, Metric, metric

REFRESH_INTERVAL_S = 5.0

Labels = frozenset[tuple[str, str]]


class Instruments(Protocol):
    """Where samples go."""

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None: ...


class MetricsExporter:
    """Exports metrics of the table, and keeps their gauges alive for as long as they are not forgotten.

    Ray stops exporting a gauge about 20 s after it was last set, so a daemon thread sets each one again. Safe to
    call from several threads and from an async actor; no call waits for the network.

    Args:
        interval_s: Time between two rounds of setting every gauge again; more than 10 s would leave gaps.
        instruments: Where samples go, Ray's metrics by default.
    """

    def __init__(self, interval_s: float = REFRESH_INTERVAL_S, instruments: Instruments | None = None) -> None:
        self._instruments = _RayInstruments() if instruments is None else instruments
        self._interval_s = interval_s
        self._latest: dict[tuple[Metric, Labels], float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="ray-tl-metrics", daemon=True)
        self._thread.start()

    def set(self, name: str, value: float, **labels: str | int) -> None:
        """Give a gauge its latest value; a value that is not finite takes the gauge away."""
        gauge, tags = _resolve(name, "gauge", labels)
        with self._lock:
            if not math.isfinite(value):
                self._latest.pop((gauge, frozenset(tags.items())), None)
                return
            self._latest[gauge, frozenset(tags.items())] = float(value)
            self._instruments.record(gauge, float(value), tags)

    def increment(self, name: str, by: float = 1.0, **labels: str | int) -> None:
        """Add to a counter; nothing happens for 0 or a number that is not finite."""
        counter, tags = _resolve(name, "counter", labels)
        if math.isfinite(by) and by != 0:
            self._instruments.record(counter, float(by), tags)

    def observe(self, name: str, value: float, **labels: str | int) -> None:
        """Add one duration in seconds to a histogram; one that is not finite is dropped."""
        histogram, tags = _resolve(name, "histogram", labels)
        if math.isfinite(value):
            self._instruments.record(histogram, float(value), tags)

    def forget(self, **labels: str | int) -> None:
        """Let every gauge with these labels, among others or not, vanish: a finished trial's, by study and trial."""
        assert labels, "forget() needs at least one label; close() ends all gauges"
        gone = set(_as_text(labels).items())
        with self._lock:
            self._latest = {key: value for key, value in self._latest.items() if not gone <= key[1]}

    def refresh(self) -> None:
        """Set every gauge to its latest value again."""
        with self._lock:
            for (gauge, labels), value in self._latest.items():
                self._instruments.record(gauge, value, dict(labels))

    def close(self) -> None:
        """Stop; every gauge vanishes within half a minute. Call it before `ray.shutdown()`; twice does no harm."""
        self._closed.set()
        self._thread.join()

    def _keep_alive(self) -> None:
        while not self._closed.wait(self._interval_s):
            self.refresh()


class _RayInstruments:
    """One Ray metric for each row of the table."""

    def __init__(self) -> None:
        self._gauges = {m: ray_metrics.Gauge(m.name, m.description, m.labels) for m in _of_kind("gauge")}
        self._counters = {m: ray_metrics.Counter(m.name, m.description, m.labels) for m in _of_kind("counter")}
        self._histograms = {
            m: ray_metrics.Histogram(m.name, m.description, list(SECONDS_BUCKETS), m.labels)
            for m in _of_kind("histogram")
        }

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        tags = dict(labels)
        if metric.kind == "gauge":
            self._gauges[metric].set(value, tags)
        elif metric.kind == "counter":
            self._counters[metric].inc(value, tags)
        else:
            self._histograms[metric].observe(value, tags)


def _of_kind(kind: str) -> list[Metric]:
    return [metric for metric in METRICS if metric.kind == kind]


def _resolve(name: str, kind: str, labels: Mapping[str, str | int]) -> tuple[Metric, dict[str, str]]:
    found = metric(name)
    assert found.kind == kind, f"{name} is a {found.kind}, not a {kind}"
    assert set(labels) == set(found.labels), f"{name} takes the labels {found.labels}, not {tuple(labels)}"
    return found, _as_text(labels)


def _as_text(labels: Mapping[str, str | int]) -> dict[str, str]:
    return {key: str(value) for key, value in labels.items()}
