"""Searches on clusters whose nodes do not all see the folder of the study."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from ray_tl import api
from ray_tl.errors import NotShared
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import run_search
from ray_tl.study.records import TrialState
from tests.on_ray.clusters import blind_node, head_node, own_address
from tests.on_ray.searching import SPACE, held_space, require_whole, that_wait

HIDE = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]


def can_hide() -> bool:
    try:
        return subprocess.run(HIDE, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not can_hide(), reason="only root, and not in every container, may hide a folder from a node"),
]


def short_space(folder: Path) -> Path:
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump({**SPACE, "search": {**SPACE["search"], "epochs": 2, "grace_epochs": 1}}))
    return path


def test_unshared_folder_is_noticed_before_the_first_trial_and_artifacts_at_an_address_do_without_one(
    folders, tmp_path
):
    home, far = tmp_path / "home", f"file://{tmp_path}/far"
    home.mkdir()
    with head_node(num_cpus=0) as (address, _), blind_node(address, home, num_cpus=1):
        there = ClusterConfig(address=address)
        plan = api.plan_search(short_space(tmp_path), *map(str, folders), name="blind", home=home)
        with pytest.raises(NotShared) as refused:
            run_search(plan, there)
        assert plan.store.trials() == []

        first = api.resume("blind", {"num_trials": 3}, there, home, artifacts=far)
        again = api.resume("blind", {"num_trials": 5}, there, home)
    assert str(refused.value).startswith(f"node {own_address()} (")
    assert f"and the driver see different files in {home}/studies/blind" in str(refused.value)
    assert "--resume blind --artifacts" in str(refused.value)
    require_whole(first.trials, 3)
    require_whole(again.trials, 5)
    assert not (home / "studies" / "blind" / "checkpoints").exists()
    version = api.promote("blind", home=home)
    assert version.decision.accepted
    assert (home / "studies" / "blind" / "checkpoints" / f"{again.champion.number:04d}.pt").is_file()


def test_node_that_comes_later_and_does_not_see_the_folder_ends_the_search(folders, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    space = held_space(tmp_path, 1, num_trials=3, epochs=6, grace_epochs=6, refit=None)
    plan = api.plan_search(space, *map(str, folders), name="late", home=home)
    with head_node(num_cpus=1) as (address, _), ThreadPoolExecutor(1) as pool:

        def add_a_blind_node() -> None:
            that_wait(tmp_path, 1)
            with blind_node(address, home, num_cpus=1):
                pass

        adding = pool.submit(add_a_blind_node)
        with pytest.raises(NotShared, match=r"node .* and the driver see different files in .*/home/studies/late"):
            run_search(plan, ClusterConfig(address=address))
        adding.result()
    first, *others = plan.store.trials()
    assert others
    assert {trial.state for trial in (first, *others)} == {TrialState.RUNNING}
    assert [trial.epochs for trial in others] == [[] for _ in others]
