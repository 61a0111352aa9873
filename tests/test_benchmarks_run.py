"""Each benchmark without Ray, run as small as it goes: that it still measures what it says is tested."""

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.augmentation import AUGMENTATIONS
from ray_tl.validation import VALIDATORS
from tests.benchmark_runs import COLOURS, SMALL_SPACE, drawn_emoji, last_json, printed

PAIR, CANDIDATES = "google>twitter", 6


@pytest.fixture(scope="module")
def emoji(tmp_path_factory) -> Path:
    return drawn_emoji(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def pools(tmp_path_factory, emoji) -> Path:
    """One pool of six candidates, with evidence."""
    folder = tmp_path_factory.mktemp("pools")
    few = ("--pairs", PAIR, "--balances", "same", "--candidates", CANDIDATES)
    (folder / "trained.txt").write_text(printed("selection_pools.py", folder, *few, "--data", emoji))
    (folder / "chosen.json").write_text(
        printed("selection.py", folder, "--pairs", PAIR, "--data", emoji, "--skada", "--json")
    )
    return folder


def accuracies(pools: Path) -> np.ndarray:
    """Of the candidates, from their recorded predictions."""
    place = pools / f"{PAIR}-same"
    truth = np.load(place / "truth.npy")
    evidence = [np.load(place / "evidence" / f"{number:04d}.npz") for number in range(CANDIDATES)]
    return np.array([(each["target"].argmax(axis=1) == truth).mean() for each in evidence])


def test_the_store_is_measured():
    found = last_json(printed("store_scale.py", "--trials", 100, "--space", "digits", "--json"))
    assert found["windows"]["50"]["total"] > 0


def test_augmentations_of_images_are_timed_beside_a_step():
    rows = dict(line.split() for line in printed("augmentation.py", "--side", 32, "--batch", 4).splitlines())
    texts = {name for name in AUGMENTATIONS.names() if AUGMENTATIONS.create(name, {}).modality == "text"}
    assert set(rows) == {"step", *AUGMENTATIONS.names()} - texts
    assert float(rows["step"]) > 0


def test_more_steps_are_compared_with_one_pass_an_epoch(emoji):
    few = ("--seeds", 0, "--methods", "mcc", "--rates", 0.01, "--min-steps", 40)
    lines = [line.split() for line in printed("min_steps.py", "--data", emoji, *few).splitlines()]
    assert [line[:5] for line in lines] == [["mcc", "lr", "0.01", "min_steps", steps] for steps in ("None", "40")]
    assert min(float(line[5].rstrip("%")) for line in lines) > 90


def test_methods_are_measured_on_features_and_in_trials_without_other_libraries(emoji, tmp_path):
    few = ("--methods", "source_only", "dann", "nearest_mean", "--seeds", 1, "--norm", "batch", "--tasks", PAIR)
    output = printed("adaptation.py", *few, "--data", emoji, "--out", tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    trials = {f"trials|{PAIR}|{name}|0" for name in ("source_only", "dann", "nearest_mean")}
    assert set(rows) == trials | {"features|batch|source_only|0", "features|batch|dann|0", "solved|nearest_mean"}
    assert min(rows[key]["accuracy"] for key in trials) > 0.9
    assert min(rows["solved|nearest_mean"]["ray_tl"]["accuracies"]) > 0.9
    assert rows["features|batch|dann|0"]["ray_tl"]["step_ms"] > 0
    assert "skada is missing" in output
    assert "pytorch-adapt is missing" in output


def test_trials_on_digits_are_measured(tmp_path):
    few = ("--part", "trials", "--tasks", "optdigits>mnist", "--methods", "nearest_mean", "--seeds", 1)
    printed("adaptation.py", *few, "--out", tmp_path, "--data", tmp_path)
    [row] = json.loads((tmp_path / "results.json").read_text()).values()
    assert 0.1 < row["accuracy"] <= 1


def test_a_pool_gets_as_many_candidates_as_asked_and_the_true_classes(pools):
    told = (pools / "trained.txt").read_text().splitlines()
    assert [line.split()[:2] for line in told] == [[PAIR, "same"]] * CANDIDATES
    assert "Error" not in "".join(told)
    assert np.bincount(np.load(pools / f"{PAIR}-same" / "truth.npy")).tolist() == [15] * len(COLOURS)


def test_the_choice_of_every_validator_and_of_the_rule_is_scored(pools):
    found, each = last_json((pools / "chosen.json").read_text()), accuracies(pools)
    ways = {"source-only", "best validator elsewhere", "objective of the search", "agreement (ours)"}
    assert set(found["summary"]) == {*VALIDATORS.names(), *ways}
    assert found["summary"]["source-only"]["mean"] == pytest.approx(100 * (each.max() - each[0]))
    [pool] = found["pools"]
    assert (pool["candidates"], pool["best"], pool["source-only"]) == (CANDIDATES, each.max(), each[0])
    assert {pool[way] for way in ways} <= set(each)


def test_an_accuracy_is_expected_of_the_champion(pools):
    found = last_json(printed("expected_accuracy.py", pools, "--pairs", PAIR, "--json"))
    [pool] = found["pools"]
    assert pool["true"] in accuracies(pools)
    assert 0 <= pool["low"] <= pool["expected"] <= pool["high"] <= 1
    ours = found["summary"]["expected_accuracy (ours)"]["whole"]
    assert ours["bias"] == pytest.approx(pool["expected"] - pool["true"])
    assert np.isfinite([row["whole"]["error"] for row in found["summary"].values()]).all()


def test_corrections_to_the_shares_of_a_balanced_target_are_scored(pools):
    found = last_json(printed("prior.py", pools, "--pairs", PAIR, "--json"))
    [pool] = found["pools"]
    assert pool["accuracy"] in accuracies(pools)
    assert pool["source_off"] == pytest.approx(0)
    assert len(pool["gains"]) == len(found["means"]) == 8
    assert np.isfinite([row["always"] for row in found["means"].values()]).all()
    assert [row["source"] for row in found["shares_alone"]] == ["google"]


def test_few_labels_are_drawn_and_choose(pools):
    found, each = last_json(printed("few_labels.py", pools, "--pairs", PAIR, "--draws", 2, "--json")), accuracies(pools)
    assert [row["pool"] for row in found["pools"]] == [f"{PAIR} same"]
    assert set(found["summary"]) == {"rule alone", "labels alone", "both"}
    regrets = np.array([list(row.values()) for row in found["summary"].values()])
    assert regrets.shape == (3, 4, 2)
    assert (regrets >= 0).all()
    assert each.min() < each.max()
    assert (regrets <= 100).all()


def test_the_champion_of_a_pool_is_refitted_in_every_way(pools, emoji, tmp_path):
    few = ("--pairs", PAIR, "--seeds", 1, "--out", tmp_path)
    found = last_json(printed("refit.py", pools, *few, "--data", emoji, "--json"))
    [pool] = found["pools"]
    ways = {"before", "seeds", "nearest", "distilled", "ensemble", "soup", "kept"}
    assert set(pool["points"]) == set(found["means"]) == ways
    assert pool["points"]["before"] in 100 * accuracies(pools)
    assert pool["points"]["kept"] in (pool["points"]["before"], pool["points"]["nearest"])
    assert all(0 <= value <= 100 for value in pool["points"].values())


@pytest.mark.parametrize("script", ["selection.py", "expected_accuracy.py", "prior.py", "few_labels.py", "refit.py"])
def test_a_folder_without_pools_is_said_to_have_none(script, tmp_path):
    with pytest.raises(SystemExit, match=r"run selection_pools\.py"):
        printed(script, tmp_path)
    assert not list(tmp_path.iterdir())


def test_recipes_of_fine_tuning_are_scored_and_a_missing_library_is_named(emoji, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(SMALL_SPACE)
    few = ("--tasks", "emoji", "--rows", "head_only", "full", "fastai", "--rates", 0.01, "--space", space)
    rows = {row["row"]: row for row in map(json.loads, printed("fine_tuning.py", *few, "--data", emoji).splitlines())}
    assert set(rows) == {"head_only", "full", "fastai"}
    assert rows["fastai"]["why"] == "fastai is not installed"
    assert rows["head_only"]["accuracy"] > 0.9
    assert 0 <= rows["full"]["accuracy"] <= 1
    assert rows["head_only"]["rate"] == rows["full"]["rate"] == 0.01


NPM = """#!{python}
import shutil, sys
name = sys.argv[-1].rsplit("@", 1)[0]
shutil.copy(f"{registry}/{{name}}.tgz", ".")
print(f"{{name}}.tgz")
"""
DRAWINGS = [
    {"image": "1f600.png", "unified": "1F600", "category": "Smileys & Emotion"},
    {"image": "1f601.png", "unified": "1F601", "category": "Smileys & Emotion"},
    {"image": "1f3fb.png", "unified": "1F3FB", "category": "Component"},
    {"image": "none.png", "unified": "1F602", "category": "Objects"},
]


@pytest.fixture
def npm(tmp_path, monkeypatch) -> None:
    """An `npm` that packs from a registry of one small package."""
    picture, registry = io.BytesIO(), tmp_path / "registry"
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    files = {"emoji.json": json.dumps(DRAWINGS).encode()}
    files |= {f"img/google/64/{each['image']}": picture.getvalue() for each in DRAWINGS[:3]}
    registry.mkdir()
    with tarfile.open(registry / "emoji-datasource-google.tgz", "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(NPM.format(python=sys.executable, registry=registry))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("npm")
def test_drawings_of_even_code_points_train_and_those_of_odd_ones_test(tmp_path):
    place = Path(printed("emoji.py", tmp_path / "emoji", "--vendors", "google").strip())
    drawn = sorted(path.relative_to(place).as_posix() for path in place.rglob("*.png"))
    assert drawn == ["test/Smileys_Emotion/1f601.png", "train/Smileys_Emotion/1f600.png"]
