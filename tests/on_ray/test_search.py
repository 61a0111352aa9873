"""Real searches on a real Ray: killed workers, killed drivers, resume, growth."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from ray_tl import api
from ray_tl.errors import NoResources
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.placement import SlotShape
from ray_tl.on_ray.reach import marker_for_nodes
from ray_tl.on_ray.search import _slots, run_search
from ray_tl.on_ray.session import ray_session
from ray_tl.on_ray.trial_queue import Job
from tests.on_ray.searching import SPACE, held_space, require_whole, that_wait

pytestmark = pytest.mark.ray


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return path


ENDLESS = """
import time
import torch

class Endless(torch.nn.Flatten):
    def forward(self, x):
        time.sleep(0 if x.is_meta else 600)
        return super().forward(x)

def build():
    return torch.nn.Sequential(Endless(), torch.nn.Linear(3 * 16 * 16, 4))
"""


def test_slots_in_the_middle_of_an_epoch_are_gone_when_a_search_breaks_off(folders, tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    changed = {**SPACE["search"], "advice": False, "validators": ["source_accuracy", "im", "bnm"]}
    trial = {"backbone": "endless", "freeze_depth": 0, "method": "source_only"}
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump({**SPACE, "backbones": {"endless": "endless.py:build"}, "trial": trial, "search": changed})
    )
    plan = api.plan_search(tmp_path / "space.yaml", *map(str, folders), name="endless", home=tmp_path)
    cluster = ClusterConfig(num_cpus=2, max_slots=1)
    with ray_session(cluster, dashboard=False):
        with (
            suppress(KeyboardInterrupt),
            marker_for_nodes(plan.store, SlotShape()) as marker,
            _slots(plan, cluster, SlotShape(), marker, print) as (queue, _, _),
        ):
            queue.submit(Job("job", 0, plan.store.spec.first[0]))
            deadline = time.monotonic() + 120
            while not ray.get(queue.actor.status.remote()).busy:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            raise KeyboardInterrupt
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("slot-")] == []


def test_search_without_a_free_processor_ends_at_once_and_says_why(folders, space, tmp_path):
    plan = api.plan_search(space, *map(str, folders), name="full", home=tmp_path)
    with pytest.raises(NoResources, match=r"workers_per_trial=3 needs 3 x .*has CPU 2, .*; ask for fewer"):
        run_search(plan, ClusterConfig(num_cpus=2, workers_per_trial=3), dashboard=False)
    assert not ray.is_initialized()


@pytest.fixture
def small_cluster() -> Iterator[Cluster]:
    """A head node with one processor; more nodes may join."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def test_a_search_that_joins_a_cluster_takes_a_second_slot_when_a_node_is_added(folders, tmp_path, small_cluster):
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            small_cluster.add_node(num_cpus=1)

    def let_go_when_both_slots_train() -> None:
        try:
            that_wait(tmp_path, 2)
        finally:
            (tmp_path / "go").touch()

    space = held_space(tmp_path, 1, num_trials=2, epochs=8, grace_epochs=8, refit=None)
    plan = api.plan_search(space, *map(str, folders), name="grows", home=tmp_path)
    with ThreadPoolExecutor(1) as pool:
        both_trained = pool.submit(let_go_when_both_slots_train)
        result = run_search(plan, ClusterConfig(address=small_cluster.address), say=say)
        both_trained.result()
    require_whole(result.trials, 2)
    assert said[0].startswith("1 warm slots")
    assert result.slots == 2
    assert "the cluster has grown: 2 warm slots of 1 worker(s)" in said


class Command:
    """A `ray-tl search` in a process of its own, its events one by one."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", "from ray_tl.cli import main; main()", "search", *arguments, "--json"]
        self.process = subprocess.Popen(
            [*command, "--num-cpus", "2", "--no-dashboard"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def events(self) -> Iterator[dict]:
        assert self.process.stdout is not None
        return map(json.loads, self.process.stdout)

    def until(self, event: str, trial: int, epoch: int) -> None:
        """Read on up to an event."""
        assert any((e.get("event"), e.get("trial"), e.get("epoch")) == (event, trial, epoch) for e in self.events())

    def kill(self) -> list[psutil.Process]:
        """SIGKILL the driver; gives all processes that it had started."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return started


def test_search_survives_its_driver_and_then_a_rank_of_a_ddp_group(folders, tmp_path):
    source, target = map(str, folders)
    space = held_space(tmp_path, 2, num_trials=4, epochs=36, grace_epochs=36, refit=None)
    first = Command(str(space), "--source", source, "--target", target, "--name", "cut", "--home", str(tmp_path))
    first.until("epoch", trial=1, epoch=3)
    orphans = first.kill()
    before = {trial.number: trial.epochs for trial in api.status("cut", tmp_path).trials}

    second = Command("--resume", "cut", "--home", str(tmp_path), "--workers-per-trial", "2")
    that_wait(tmp_path, 2, lambda: second.process.poll() is None)[-1].kill()
    (tmp_path / "go").touch()
    last = list(second.events())[-1]
    assert second.process.wait() == 0

    assert last["slot_restarts"] == 1
    after = api.status("cut", tmp_path)
    require_whole(after.trials, 4)
    assert last["champion"]["trial"] == after.champion
    assert after.findings["not_expected"] == last["not_expected"]  # four trials are too few
    for number, epochs in before.items():
        assert after.trials[number].epochs[: len(epochs)] == epochs
    by_two = next(trial for trial in after.trials if not before.get(trial.number))
    assert by_two.cost_s == pytest.approx(2 * sum(epoch.seconds for epoch in by_two.epochs))
    _, alive = psutil.wait_procs(orphans, timeout=60)  # Ray's own agents take a minute or more to notice
    assert not alive
