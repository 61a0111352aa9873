"""What a search is refused for before anything runs, and what it remembers of its data; no Ray is started."""

import json
import socket

import numpy as np
import pytest
from PIL import Image

from ray_tl import api
from ray_tl.data.load import load_pair
from ray_tl.errors import InvalidInput
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import room_of
from ray_tl.search_space import DataOptions, SearchFile
from ray_tl.search_space.trees import Middle
from tests.tiny_clip import save_tiny_clip, tiny_clip


def plan(folders, home, method, width=8, further=None, **fields):
    trees = {"backbone": {"tiny_cnn": {"width": width}}, "method": method, **fields}
    file = SearchFile(data={"image_size": 8, "channels": 1, "holdout_fraction": 0.3}, trial=trees)
    return api.plan_search(file, *folders, name="planned", home=home, **(further or {}))


def test_closed_form_methods_are_chosen_and_sampled_like_others(folders, tmp_path):
    methods = {"logistic": "auto", "knn": {"k": {"int": [1, 8]}}, "coral_closed": {"C": "auto"}, "mcc": "auto"}
    trees = {"choice": {name: None if params == "auto" else params for name, params in methods.items()}}
    trees["choice"]["logistic"] = {"C": "auto"}
    space = plan(folders, tmp_path, trees).store.space
    assert space.sample(Middle()).method.params == {"C": pytest.approx(1.0)}
    assert space.baseline().method.name == "source_only"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"logistic": {"c": 1.0}}, "trial.method: adaptation method 'logistic' has no parameter 'c'; choose from C."),
        ({"knn": {"k": 2.5}}, "knn.k=2.5 is not of type int"),
        ({"logistic": {"C": {"uniform": [0, 1]}}}, "logistic.C=0.0 must be a finite number above 0"),
        ({"knn": {"k": {"int": [1, 9]}}}, "knn.k=9 is more than the 8 source rows; choose 1..8"),
        ({"pca_alignment": {"num_components": {"int": [2, 40]}}}, "num_components=40 must lie in 1..16, the width"),
        ({"subspace_alignment": {"num_components": 6}}, "num_components=6 is more than the 5 axes that so few rows"),
        ({"logistik": None}, "adaptation method 'logistik' is not known; did you mean 'logistic'?"),
    ],
)
def test_a_mistake_in_a_parameter_is_one_line_and_nothing_is_written(folders, tmp_path, method, said):
    with pytest.raises(InvalidInput) as raised:
        plan(folders, tmp_path / "home", method)
    (line,) = str(raised.value).splitlines()
    assert said in line
    assert not (tmp_path / "home" / "studies" / "planned").exists()


METHODS = {"choice": ["source_only", "dann", "deepjdot", "knn"]}


def test_every_method_that_mixing_may_meet_is_asked(folders, tmp_path):
    with pytest.raises(InvalidInput, match=r"mixing='mixup' does not go with method 'deepjdot'") as raised:
        plan(folders, tmp_path, METHODS, mixing={"choice": ["none", "mixup"]})
    assert len(str(raised.value).splitlines()) == 1


def test_mixing_by_method_is_sound(folders, tmp_path):
    mixed = {"choice": ["none", "mixup"]}
    cases = {"source_only": mixed, "dann": mixed, "deepjdot": "none", "knn": "none"}
    space = plan(folders, tmp_path, METHODS, mixing={"by": "method", "cases": cases}).store.space
    assert space.baseline().mixing.name == "none"


def test_evening_out_classes_is_sound_and_no_part_of_the_baseline(folders, tmp_path):
    space = plan(folders, tmp_path, METHODS, class_balance={"choice": ["smote", "weights"]}).store.space
    assert space.baseline().class_balance.name == "none"


STAGED = {"choice": {"direct": None, "staged": {"share": {"uniform": [0.1, 0.4]}}}}
OTHER = {"choice": {"none": None, "auxiliary": None}}


@pytest.mark.parametrize("averaging", ["wise_ft", {"choice": ["none", "wise_ft"]}])
def test_an_average_of_fine_tuned_weights_where_none_are_is_refused(folders, tmp_path, averaging):
    with pytest.raises(InvalidInput) as raised:
        plan(folders, tmp_path, "mcc", averaging=averaging, freeze_depth={"choice": ["head_only", 3]})
    (line,) = str(raised.value).splitlines()
    said = "averaging='wise_ft' has nothing to average: no stage of the backbone trains with freeze_depth="
    assert said in line
    assert line.endswith("lower freeze_depth, or choose another averaging.")


def test_it_is_sound_where_some_trials_fine_tune(folders, tmp_path):
    depths = {"choice": ["head_only", "last_1"]}
    planned = plan(folders, tmp_path, "mcc", averaging={"choice": ["none", "wise_ft"]}, freeze_depth=depths)
    assert planned.store.spec.trees["freeze_depth"] == depths


@pytest.fixture
def further(tmp_path):
    """A domain between source and target without labels, and another task of two classes."""
    for number in range(10):
        folder = tmp_path / ("dusk" if number < 6 else f"weather/{'rain' if number % 2 else 'sun'}")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(100 + number).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return {"intermediate": (str(tmp_path / "dusk"),), "auxiliary": str(tmp_path / "weather")}


def test_further_domains_are_part_of_the_study(folders, further, tmp_path):
    planned = plan(folders, tmp_path, "coral", further=further, transfer=STAGED, multi_task=OTHER)
    assert [len(domain) for domain in planned.pair.intermediate] == [6]
    assert planned.pair.auxiliary.classes == ("rain", "sun")
    assert planned.store.spec.data.intermediate == further["intermediate"]
    assert {config.transfer.name for config in planned.store.spec.first} == {"direct"}


def test_a_search_does_not_go_on_when_a_domain_between_has_changed(folders, further, tmp_path):
    plan(folders, tmp_path, "coral", further=further, transfer=STAGED, multi_task=OTHER)
    api.plan_resumption("planned", home=tmp_path)
    (tmp_path / "dusk" / "0.png").unlink()
    with pytest.raises(InvalidInput, match="was begun on other data"):
        api.plan_resumption("planned", home=tmp_path)


@pytest.mark.parametrize(
    ("given", "fields", "said"),
    [
        ([], {"transfer": STAGED}, "transfer='staged' needs intermediate domains"),
        ([], {"multi_task": OTHER}, "multi_task='auxiliary' needs another labelled domain"),
        (["intermediate"], {}, "--intermediate is given, but no trial uses it; add transfer: staged"),
        (
            ["auxiliary"],
            {"multi_task": "none"},
            "--auxiliary is given, but no trial uses it; add multi_task: auxiliary",
        ),
        (["intermediate"], {"transfer": {"staged": {"share": {"uniform": [0.5, 1.0]}}}}, "must leave some of the"),
    ],
)
def test_domains_and_their_use_must_go_together(folders, further, tmp_path, given, fields, said):
    with pytest.raises(InvalidInput, match=said):
        plan(folders, tmp_path, "coral", further={name: further[name] for name in given}, **fields)


def test_a_backbone_that_knows_words_is_tried_without_training_first(folders, tmp_path):
    trees = {"backbone": {"choice": {"clip": {"weights": tiny_clip(1, 8)}, "tiny_cnn": None}}}
    file = SearchFile(data={"image_size": 8, "channels": 1, "holdout_fraction": 0.3}, trial=trees)
    first = api.plan_search(file, *folders, name="planned", home=tmp_path).store.spec.first
    assert [config.method.name for config in first] == ["source_only", "zero_shot", "source_only", "source_only"]
    assert [config.backbone.name for config in first][1:] == ["clip", "clip", "clip"]
    assert [config.averaging.name for config in first][2:] == ["wise_ft", "none"]  # it trains all of what was learned


def test_a_text_tower_without_tokenizer_is_found_before_anything_starts(folders, tmp_path):
    folder = save_tiny_clip(tmp_path / "clip", 1, 8)
    (folder / "tokenizer.json").unlink()
    trees = {"backbone": {"clip": {"weights": str(folder)}}}
    file = SearchFile(data={"image_size": 8, "channels": 1, "holdout_fraction": 0.3}, trial=trees)
    with pytest.raises(InvalidInput, match="holds no tokenizer"):
        api.plan_search(file, *folders, name="planned", home=tmp_path / "home")


def test_weights_that_can_not_be_had_are_one_error_before_anything_starts(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    trees = {"backbone": {"choice": ["mobilenet_v3_small", "efficientnet_b0"]}, "freeze_depth": {"int": [0, 2]}}
    file = SearchFile(data={"image_size": 32, "channels": 3, "holdout_fraction": 0.3}, trial=trees)
    with pytest.raises(InvalidInput) as raised:
        api.plan_search(file, *folders, name="planned", home=tmp_path / "home")
    first, second = (line for line in str(raised.value).splitlines() if "can't be fetched" in line)
    assert "mobilenet_v3_small" in first
    assert "efficientnet_b0" in second
    assert not (tmp_path / "home").exists()


def no_network(*arguments, **options):
    raise socket.gaierror("no network")


def test_mistakes_of_components_data_and_memory_are_reported_together(folders, tmp_path):
    trees = {
        "backbone": {"tiny_cnn": {"width": 8}},
        "freeze_depth": {"int": [0, 9]},
        "method": {"mmd": {"bandwidth": -1}},
    }
    file = SearchFile(data={"image_size": 8, "channels": 1}, trial=trees)
    with pytest.raises(InvalidInput) as raised:
        api.plan_search(file, str(tmp_path / "nowhere"), folders[1], name="planned", home=tmp_path / "home")
    for said in ("source='", "nowhere' does not exist", "freeze_depth=9 is deeper", "mmd.bandwidth"):
        assert said in str(raised.value)
    assert not (tmp_path / "home").exists()


def test_a_batch_that_no_memory_holds_is_refused_before_the_data_are_read(folders, tmp_path):
    trees = {"backbone": {"resnet18": {"weights": "none"}}, "batch_size": 100_000}
    file = SearchFile(data={"image_size": 512}, trial=trees)
    with pytest.raises(InvalidInput, match=r"batch_size=100000 on 'resnet18' from stage 0 on needs .* GiB"):
        api.plan_search(file, *folders, name="planned", home=tmp_path / "home", cluster=ClusterConfig())


def test_memory_of_a_cluster_that_runs_elsewhere_is_not_guessed():
    assert room_of(ClusterConfig(address="auto")) is None
    here = room_of(ClusterConfig(num_cpus=4, workers_per_trial=2))
    assert (here.num_workers, here.ranks) == (4, 2)


# where the data are, and how they are read


def test_a_study_remembers_what_was_read_in_words(folders, tmp_path):
    spec = plan(folders, tmp_path, "coral").store.spec
    assert spec.data_lines() == ["source: 12 images in 2 classes, 6 each, 4 held out", "target: 6 images"]
    assert api.status("planned", tmp_path).summary()["data"]["domains"][1]["size"] == 6


def test_an_address_is_kept_as_it_was_given_and_a_path_is_made_absolute(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stated = plan((f"file://{folders[0]}", "target"), tmp_path, "coral").store.spec.data
    assert (stated.source, stated.target) == (f"file://{folders[0]}", folders[1])
    monkeypatch.chdir("/")
    assert len(api.plan_resumption("planned", home=tmp_path).pair.target) == 6


def test_a_study_of_the_first_reader_reads_its_files_as_it_did(folders, tmp_path):
    store = plan(folders, tmp_path, "coral").store
    record = json.loads((store.folder / "study.json").read_text())
    del record["data"]["options"]["reader_version"]
    (store.folder / "study.json").write_text(json.dumps(record))
    Image.new("L", (8, 8), 7).save(tmp_path / "target" / "unknown_then.tif")
    resumed = api.plan_resumption("planned", home=tmp_path)
    assert resumed.store.spec.data.options.reader_version == resumed.pair.preprocessing.reader_version == 1
    assert len(resumed.pair.target) == 6


def test_a_study_of_the_first_reader_goes_on_with_what_is_refused_now(folders, tmp_path):
    for number in range(2):
        (tmp_path / "source" / "A").mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "source" / "A" / f"{number}.png")
    options = DataOptions(image_size=8, channels=1, holdout_fraction=0.3, reader_version=1)
    pair = load_pair(*folders, folders[1], options, 0)
    assert pair.source.classes == ("A", "a", "b")
    assert pair.target_test.fingerprint() == pair.target.fingerprint()


def test_of_a_study_of_the_second_reader_a_new_file_is_new_data(folders, tmp_path):
    plan(folders, tmp_path, "coral")
    Image.new("L", (8, 8), 7).save(tmp_path / "target" / "new.tif")
    with pytest.raises(InvalidInput, match="was begun on other data"):
        api.plan_resumption("planned", home=tmp_path)


def test_what_the_least_number_of_steps_means_for_a_small_source_is_said(folders, tmp_path):
    spec = plan(folders, tmp_path, "im", batch_size=4, freeze_depth="head_only").store.spec
    assert [config.min_steps for config in spec.first] == [1200]
    (line,) = [line for line in spec.data_lines() if "steps" in line]
    assert "8 examples to train on: 10 epochs in batches of 4 would be 20 steps" in line
    assert "on cached features, they are 1,200 (search.min_steps" in line


@pytest.mark.parametrize(
    ("fields", "is_said"),
    [
        ({"freeze_depth": {"choice": ["everything", "head_only"]}}, True),
        ({"unfreezing": {"choice": ["fixed", "gradual"]}}, True),
        ({"freeze_depth": "last_1"}, False),
        ({"freeze_depth": "head_only", "augmentation": "affine"}, False),  # no cache
    ],
)
def test_steps_are_spoken_of_where_the_head_may_train_alone_on_cached_features(folders, tmp_path, fields, is_said):
    spec = plan(folders, tmp_path, "im", batch_size=4, **fields).store.spec
    assert any("steps" in line for line in spec.data_lines()) is is_said


def test_a_third_of_a_search_is_advised_at_most(folders, tmp_path):
    methods = {"choice": ["source_only", *(name for name in ("im", "bnm", "mcc", "mmd", "dann", "cdan", "afn"))]}
    spec = plan(folders, tmp_path, methods).store.spec
    assert spec.search.num_trials == 24
    assert len(spec.advice) <= 24 // 3
