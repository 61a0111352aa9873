"""Searches that lose a node, a client, the trial queue, a slot that falls silent, and the head of their cluster."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from ray_tl import api
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import run_search
from tests.on_ray.clusters import end_processes_of, head_node
from tests.on_ray.searching import held_space, require_whole, that_wait, wait_until

pytestmark = pytest.mark.ray


@pytest.fixture
def small_cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@contextmanager
def let_go_at_the_end(folder: Path) -> Iterator[None]:
    """Trials of `held_space` go on, whatever happens here."""
    try:
        yield
    finally:
        (folder / "go").touch()


def test_trial_of_a_lost_node_goes_on_in_another_slot(folders, tmp_path, small_cluster):
    node = small_cluster.add_node(num_cpus=1)
    said: list[str] = []

    def lose_the_node() -> None:
        with let_go_at_the_end(tmp_path):
            that_wait(tmp_path, 2)
            small_cluster.remove_node(node, allow_graceful=False)

    space = held_space(tmp_path, 1, num_trials=3, epochs=6, grace_epochs=6, refit=None)
    plan = api.plan_search(space, *map(str, folders), name="lost", home=tmp_path)
    with ThreadPoolExecutor(1) as pool:
        breaking = pool.submit(lose_the_node)
        result = run_search(plan, ClusterConfig(address=small_cluster.address), say=said.append)
        breaking.result()
    require_whole(result.trials, 3)
    assert result.slots == 1
    assert sum("was lost" in line for line in said) == 1


def processes(name: str) -> list[psutil.Process]:
    """Actors of the Ray that this process has started."""
    found = psutil.Process().children(recursive=True)
    living = [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    return [process for process in living if name in " ".join(process.cmdline())]


def test_search_survives_a_silent_slot_a_lost_client_and_a_lost_queue(folders, tmp_path):
    said: list[str] = []

    def break_it() -> None:
        with let_go_at_the_end(tmp_path):
            first, _ = that_wait(tmp_path, 2)
            first.send_signal(signal.SIGSTOP)
            wait_until(lambda: any("was silent for 5 s" in line for line in said))
            processes("ResourceTrainable")[0].kill()  # as Tune calls its clients
            that_wait(tmp_path, 2)
            processes("TrialQueue")[0].kill()
            wait_until(lambda: "the trial queue was lost; the search goes on with a new one" in said)

    space = held_space(tmp_path, 1, num_trials=3, epochs=6, grace_epochs=6, refit=None)
    plan = api.plan_search(space, *map(str, folders), name="broken", home=tmp_path)
    with ThreadPoolExecutor(1) as pool:
        breaking = pool.submit(break_it)
        result = run_search(plan, ClusterConfig(num_cpus=2, lease_s=5), say=said.append, dashboard=False)
        breaking.result()
    require_whole(result.trials, 3)


def search(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from ray_tl.cli import main; main()", "search", *arguments, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_search_whose_head_is_killed_ends_with_a_word_and_goes_on_with_a_new_cluster(folders, tmp_path):
    source, target = map(str, folders)
    space = held_space(tmp_path, 1, num_trials=3, epochs=6, grace_epochs=6, refit=None)
    stated = [str(space), "--source", source, "--target", target, "--home", str(tmp_path)]
    stated += ["--name", "head", "--resume-or-start"]
    with head_node(num_cpus=2) as (address, folder):
        first = search(*stated, "--address", address)
        that_wait(tmp_path, 2, lambda: first.poll() is None)
        end_processes_of(folder)
        _, complaint = first.communicate(timeout=180)
    assert first.returncode != 0
    assert "the head of the cluster is gone" in complaint
    assert "go on with: ray-tl search --resume head" in complaint

    (tmp_path / "go").touch()
    with head_node(num_cpus=2) as (address, _):
        second = search(*stated, "--address", address)
        output, _ = second.communicate(timeout=300)
    assert second.returncode == 0
    require_whole(api.status("head", tmp_path).trials, 3)
    assert json.loads(output.splitlines()[-1])["champion"]["trial"] == api.status("head", tmp_path).champion
