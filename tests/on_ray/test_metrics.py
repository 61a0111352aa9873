import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from urllib.parse import urlencode

import pytest
import ray

from ray_tl.observability.dashboards import search_panels
from ray_tl.observability.metrics import METRICS, TRIAL_STATES, names_in
from ray_tl.on_ray.metrics import MetricsExporter

EXPRESSIONS = [query.expression for panel in search_panels() for query in panel.queries]
NEVER_S = 3600.0


class Recorded(list):
    """Instruments that keep the samples, in place of Ray's."""

    def record(self, metric, value, labels):
        self.append((metric.name, value, labels))


@pytest.fixture
def samples():
    return Recorded()


@pytest.fixture
def exporter(samples):
    exporter = MetricsExporter(NEVER_S, samples)
    yield exporter
    exporter.close()


def test_gauge_is_recorded_at_once_and_again_at_every_refresh(exporter, samples):
    exporter.set("tl_trial_score", 0.5, study="digits", trial=3)
    exporter.refresh()
    assert samples == [("tl_trial_score", 0.5, {"study": "digits", "trial": "3"})] * 2


def test_refresh_records_the_latest_value_only(exporter, samples):
    exporter.set("tl_queue_length", 4, study="digits")
    exporter.set("tl_queue_length", 2, study="digits")
    samples.clear()
    exporter.refresh()
    assert samples == [("tl_queue_length", 2.0, {"study": "digits"})]


def test_forgotten_trial_is_no_longer_recorded_and_others_are(exporter, samples):
    exporter.set("tl_trial_score", 0.5, study="digits", trial=1)
    exporter.set("tl_trial_loss", 0.1, study="digits", trial=1, loss="task")
    exporter.set("tl_trial_score", 0.6, study="digits", trial=2)
    exporter.set("tl_slots", 2, study="digits")
    exporter.forget(study="digits", trial=1)
    samples.clear()
    exporter.refresh()
    assert [(name, labels.get("trial")) for name, _, labels in samples] == [("tl_trial_score", "2"), ("tl_slots", None)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_value_that_is_not_finite_takes_the_gauge_away(exporter, samples, value):
    exporter.set("tl_trial_score", 0.5, study="digits", trial=1)
    samples.clear()
    exporter.set("tl_trial_score", value, study="digits", trial=1)
    exporter.refresh()
    assert samples == []


@pytest.mark.parametrize("by", [0, float("nan"), float("inf")])
def test_increment_by_nothing_or_no_number_is_skipped(exporter, samples, by):
    exporter.increment("tl_slot_restarts_total", by, study="digits", slot=0)
    assert samples == []


def test_counter_is_recorded_once_and_never_refreshed(exporter, samples):
    exporter.increment("tl_slot_restarts_total", study="digits", slot=0)
    exporter.refresh()
    assert samples == [("tl_slot_restarts_total", 1.0, {"study": "digits", "slot": "0"})]


def test_duration_that_is_not_finite_is_dropped(exporter, samples):
    exporter.observe("tl_epoch_seconds", float("nan"), study="digits")
    exporter.observe("tl_epoch_seconds", 2.5, study="digits")
    assert samples == [("tl_epoch_seconds", 2.5, {"study": "digits"})]


@pytest.mark.parametrize("labels", [{}, {"study": "a", "trial": 1}, {"trial": 1}])
def test_labels_other_than_the_table_states_are_a_mistake_of_ours(exporter, labels):
    with pytest.raises(AssertionError, match="takes the labels"):
        exporter.set("tl_best_score", 1.0, **labels)


def test_metric_of_another_kind_is_a_mistake_of_ours(exporter):
    with pytest.raises(AssertionError, match="is a counter, not a gauge"):
        exporter.set("tl_slot_restarts_total", 1.0, study="a", slot=0)


def test_forgetting_without_labels_is_a_mistake_of_ours(exporter):
    with pytest.raises(AssertionError, match="at least one label"):
        exporter.forget()


def test_thread_records_gauges_again_until_closed(samples):
    exporter = MetricsExporter(0.01, samples)
    exporter.set("tl_slots", 2, study="digits")
    _until(lambda: len(samples) >= 3, timeout_s=5)
    exporter.close()
    assert "ray-tl-metrics" not in {thread.name for thread in threading.enumerate()}


def test_closing_twice_does_no_harm(samples):
    exporter = MetricsExporter(NEVER_S, samples)
    exporter.close()
    exporter.close()


@pytest.fixture(scope="module")
def metrics_port():
    """Port of a real Ray node's metrics endpoint, of which an actor exports every metric of the table."""
    folder = tempfile.mkdtemp(prefix="rtl")
    ray.init(num_cpus=1, _node_ip_address="127.0.0.1", _temp_dir=folder, include_dashboard=False, log_to_driver=False)
    exporter = ray.remote(MetricsExporter).remote()
    stop = threading.Event()
    thread = threading.Thread(target=_export_until, args=(exporter, stop))
    thread.start()
    yield ray.nodes()[0]["MetricsExportPort"]
    stop.set()
    thread.join()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
def test_every_panel_finds_its_metrics_and_labels_on_a_real_ray_node(metrics_port):
    wanted = set().union(*map(names_in, EXPRESSIONS))
    scraped = _until(lambda: (found := _scrape(metrics_port)).keys() >= wanted and found, timeout_s=60)
    for expression in EXPRESSIONS:
        grouped = set(re.findall(r"\w+", re.search(r"by \(([^)]*)\)", expression)[1]))
        assert all(grouped <= scraped[name] for name in names_in(expression)), expression


@pytest.mark.ray
@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs prometheus (Debian: prometheus)")
def test_every_panel_returns_data_from_a_real_prometheus(metrics_port, tmp_path):
    with _Prometheus(metrics_port, tmp_path) as prometheus:
        _until(lambda: all(map(prometheus.has_data, EXPRESSIONS)), timeout_s=90)
        empty = [text for text in EXPRESSIONS if not prometheus.has_data(text)]
    assert empty == []


class _Prometheus:
    """A Prometheus on loopback that scrapes one Ray node each second."""

    def __init__(self, metrics_port, folder):
        scrape = {"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yaml").write_text(json.dumps(config))
        self.folder, self.address = folder, f"127.0.0.1:{_free_port()}"

    def __enter__(self):
        flags = {
            "config.file": self.folder / "prometheus.yaml",
            "storage.tsdb.path": self.folder / "data",
            "web.listen-address": self.address,
        }
        command = ["prometheus", *(f"--{key}={value}" for key, value in flags.items())]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=20)

    def has_data(self, expression):
        plain = expression.replace("$__rate_interval", "1m").replace("$__range", "1m").replace("$study", ".*")
        url = f"http://{self.address}/api/v1/query?{urlencode({'query': plain})}"
        return bool(json.loads(_read(url) or '{"data": {"result": []}}')["data"]["result"])


def _export_until(exporter, stop):
    values = {"study": "digits", "trial": "7", "slot": "0", "validator": "im", "loss": "task", "state": TRIAL_STATES[0]}
    verbs = {"gauge": exporter.set, "counter": exporter.increment, "histogram": exporter.observe}
    while not stop.wait(1.0):
        for row in METRICS:
            ray.get(verbs[row.kind].remote(row.name, 1.5, **{label: values[label] for label in row.labels}))


def _scrape(port):
    text = _read(f"http://127.0.0.1:{port}/metrics")
    lines = re.findall(r"^(ray_tl_\w+)\{(.*)\} ", text, re.MULTILINE)
    return {name: set(re.findall(r'(\w+)="', labels)) for name, labels in lines}


def _read(url):
    try:
        return urllib.request.urlopen(url, timeout=5).read().decode()
    except OSError:
        return ""


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _until(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        threading.Event().wait(0.01 if timeout_s < 10 else 1.0)
    return result
