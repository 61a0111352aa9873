"""Real searches on a real Ray whose champion is trained again, or is chosen with a few labels."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from ray_tl import api
from ray_tl.config import TrialConfig
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import run_search
from ray_tl.planning import plan_search
from ray_tl.search_space import SearchFile
from ray_tl.study.records import DataSource
from ray_tl.study.store import CHAMPION_FILE
from ray_tl.training.files import TrialFiles
from tests.on_ray.searching import SPACE, epochs_of
from tests.on_ray.test_search import Command

pytestmark = pytest.mark.ray


def test_a_champion_is_trained_again_and_a_refit_that_was_killed_goes_on_on_two_ranks(folders, tmp_path):
    source, target = map(str, folders)
    search = {"num_trials": 2, "epochs": 12, "grace_epochs": 12, "refit": {"seeds": 2, "combine": "ensemble"}}
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({**SPACE, "search": search}))
    first = Command(str(space), "--source", source, "--target", target, "--name", "again", "--home", str(tmp_path))
    first.until("epoch", trial=2, epoch=3)
    first.kill()
    before = api.status("again", tmp_path)

    second = Command("--resume", "again", "--home", str(tmp_path), "--workers-per-trial", "2")
    last = list(second.events())[-1]
    assert second.process.wait() == 0
    after = api.status("again", tmp_path)
    of = before.champion
    assert [trial.refit_of for trial in after.trials] == [None, None, of, of, of]
    assert [epochs_of(trial) for trial in after.trials[2:]] == [list(range(1, 13)), list(range(1, 13)), [12]]
    assert after.trials[2].epochs[:3] == before.trials[2].epochs[:3]
    assert after.trials[4].combines == (2, 3)
    assert last["refit"] == after.refit
    assert last["trials"] == after.num_trials == 2
    assert after.champion == (4 if after.refit["kept"] else of)
    promoted = api.promote("again", trial=4, home=tmp_path)
    assert len(api.predict("again", [target], home=tmp_path)) == 80
    assert json.loads((promoted.folder / "lineage.json").read_text())["source_metrics"] == {}


def test_a_student_of_refits_that_was_killed_goes_on_and_is_promoted_as_one_network(folders, tmp_path):
    source, target = map(str, folders)
    search = {"num_trials": 1, "epochs": 8, "grace_epochs": 8, "refit": {"seeds": 2, "combine": "distilled"}}
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({**SPACE, "search": search}))
    first = Command(str(space), "--source", source, "--target", target, "--name", "taught", "--home", str(tmp_path))
    first.until("epoch", trial=3, epoch=3)
    first.kill()
    before = api.status("taught", tmp_path).trials

    second = Command("--resume", "taught", "--home", str(tmp_path))
    last = list(second.events())[-1]
    assert second.process.wait() == 0
    student = api.status("taught", tmp_path).trials[3]
    assert (student.refit_of, student.combines, last["refit"]["combine"]) == (0, (1, 2), "distilled")
    assert epochs_of(student) == list(range(1, 9))
    assert student.epochs[:3] == before[3].epochs[:3]
    promoted = api.promote("taught", trial=3, home=tmp_path)
    assert len(api.predict("taught", [target], home=tmp_path)) == 80
    assert json.loads((promoted.folder / "lineage.json").read_text())["trial"] == 3


FIRST = [("source_only", 1e-7), ("coral", 1e-2), ("mcc", 1e-2)]  # the first learns nothing


def configs():
    """Source-only, and two trials of different families that are far more confident."""
    fields = {"backbone": "tiny_cnn", "epochs": 8}
    return [
        TrialConfig.model_validate({**fields, "method": method, "optimizer": {"adamw": {"lr": lr}}})
        for method, lr in FIRST
    ]


def test_the_best_of_two_families_are_trained_again_and_the_better_network_is_the_champion(folders, tmp_path):
    search = {"epochs": 8, "grace_epochs": 8, "selection": {"validators": {"names": ["im"]}}}
    file = SearchFile.model_validate({**SPACE, "search": {**search, "num_trials": 3, "refit": {"seeds": 1, "top": 2}}})
    source, target = map(str, folders)
    data = DataSource(source=source, target=target, options=file.data)
    plan = plan_search(file, data, "two", tmp_path / "studies", configs())
    result = run_search(plan, ClusterConfig(num_cpus=2), dashboard=False)
    first, second = result.refits
    assert {first.of.number, second.of.number} == {1, 2}
    assert first.stands.last.scores["im"] >= second.stands.last.scores["im"]
    content = json.loads((result.folder / CHAMPION_FILE).read_text())
    assert content["trial"] == result.champion.number == first.stands.number
    assert content["refit"] == first.summary()
    assert content["other_refits"] == [second.summary()]
    assert sorted(trial.refit_of for trial in result.trials[3:]) == [1, 2]


def write_few(root, per_class):
    """Class folders of further dark squares."""
    random = np.random.default_rng(1)
    for name, channel in (("blue", 2), ("red", 0)):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = random.integers(0, 60, (16, 16, 3), dtype=np.uint8)
            pixels[4:12, 4:12, channel] = 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return str(root)


def test_a_champion_is_chosen_with_labels_that_no_trial_is_shown(folders, tmp_path):
    search = {"num_trials": 5, "epochs": 12, "grace_epochs": 12, "refit": None}
    fast = {"adamw": {"lr": {"log_uniform": [5e-3, 1e-2]}}}  # every trial learns: guards leave enough to be weighed
    trial = {**SPACE["trial"], "freeze_depth": 0, "optimizer": fast, "augmentation": "none"}
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump({**SPACE, "search": search, "trial": trial}))
    labelled, given = write_few(tmp_path / "few", 6), {"target_labels_for": "choice"}
    cluster = ClusterConfig(num_cpus=2)
    where = {"cluster": cluster, "home": tmp_path, "target_labelled": labelled}
    result = api.search(space, *map(str, folders), name="few", settings=given, **where)
    predicted = TrialFiles(result.folder, result.champion.number).load_evidence()["target_choice"].argmax(axis=1)
    hits = int((predicted == [0] * 6 + [1] * 6).sum())
    assert f"of 6 labelled target examples a class, 12 in all, it predicts {hits} rightly" in result.reason
