"""Searches on a cluster that grows for them, and on one that they share."""

import json

import pytest
import ray
import yaml

from ray_tl import api
from ray_tl.on_ray.cluster_file import ClusterConfig
from tests.on_ray.clusters import autoscaling_cluster, head_node
from tests.on_ray.searching import SPACE, held_space, require_whole, that_wait, wait_until
from tests.on_ray.test_failures import search

pytestmark = pytest.mark.ray


def test_search_grows_a_cluster_without_workers_and_lets_it_shrink(folders, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({**SPACE, "search": {"num_trials": 2, "epochs": 4, "refit": None}}))
    said: list[str] = []
    with autoscaling_cluster({"resources": {"CPU": 1}, "max_workers": 2}) as address:
        from ray_tl.on_ray.search import run_search

        plan = api.plan_search(space, *map(str, folders), name="grows", home=tmp_path)
        result = run_search(plan, ClusterConfig(address=address), say=said.append)
        require_whole(result.trials, 2)
        assert said[0].startswith("waiting for room: 1 x (CPU 1, GPU 0) for one trial")
        assert said[0].endswith("and asked the autoscaler for more")
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        try:
            wait_until(lambda: ray.cluster_resources().get("CPU", 0) == 0, limit_s=120)
        finally:
            ray.shutdown()


def test_second_search_gets_a_slot_of_the_first_between_trials(folders, tmp_path):
    source, target = map(str, folders)
    held = held_space(tmp_path, 1, num_trials=3, epochs=4, grace_epochs=4, refit=None)
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump({**SPACE, "search": {"num_trials": 2, "epochs": 4, "refit": None}}))
    where = ["--source", source, "--target", target, "--home", str(tmp_path)]
    with head_node(num_cpus=2) as (address, _):
        first = search(str(held), *where, "--name", "first", "--address", address)
        slots = that_wait(tmp_path, 2, lambda: first.poll() is None)
        second = search(str(plain), *where, "--name", "second", "--address", address)
        assert second.stderr is not None
        waiting = next(line for line in second.stderr if "waiting for room" in line)
        for slot in slots:
            (tmp_path / f"go-{slot.pid}").touch()
        second.communicate(timeout=300)
        assert (second.returncode, first.poll()) == (0, None)  # the third trial of the first stands still
        (tmp_path / "go").touch()
        output, _ = first.communicate(timeout=300)
        assert first.returncode == 0
    assert "searches first share it" in waiting
    assert json.loads(output.splitlines()[-1])["slot_restarts"] == 0
    require_whole(api.status("first", tmp_path).trials, 3)
    require_whole(api.status("second", tmp_path).trials, 2)
