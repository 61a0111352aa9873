"""From a trial whose head was solved for to a version that predicts as the trial did."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.load import load_pair
from ray_tl.errors import BrokenBundle, InvalidInput
from ray_tl.promotion.bundle import LINEAGE, MANIFEST, SPEC, WEIGHTS, Manifest, _record, load_bundle
from ray_tl.promotion.predict import predict
from ray_tl.promotion.promote import promote_trial
from ray_tl.search_space import DataOptions
from ray_tl.study.records import DataSource, EpochRecord, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from tests.examples import spec
from tests.training.tiny import RECORDED, RULE, tiny_config, tiny_data

OPTIONS = DataOptions(image_size=8, channels=1)
METHODS = {
    "coral_closed": {},
    "knn": {"k": 3, "metric": "cosine"},
    "logistic": {"C": 0.5},
    "random_forest": {"num_trees": 5},
}
STEPS = ["knn", "random_forest"]  # their heads are not linear
CREATED_AT = "2026-01-02T03:04:05+00:00"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Grey squares of three kinds, and darker ones without labels."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(60):
        kind = number % 3
        for domain, light in (("source", 200), ("target", 120)):
            pixels = random.integers(0, 50, (8, 8), dtype=np.uint8)
            pixels[2 * kind : 2 * kind + 2] += np.uint8(light)
            path = folder / domain / (f"kind{kind}" if domain == "source" else "all") / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def data(images):
    return tiny_data(load_pair(str(images / "source"), str(images / "target"), None, OPTIONS, 0))


def promoted(method, data, images, folder, correction=None):
    """A study of one trial, and the version that it gave."""
    config = tiny_config(method={method: METHODS[method]}, adaptor="bottleneck")
    source = DataSource(source=str(images / "source"), target=str(images / "target"), options=OPTIONS)
    of_study = spec(first=[config]).model_copy(update={"data": source, "classes": data.pair.source.classes})
    store = StudyStore.create(folder / "office", of_study)
    number = store.ask().number

    def remember(report):
        store.add_epoch(number, EpochRecord(objective=0.5, **asdict(report)), 1)
        return False

    train_trial(config, data, remember, TrialFiles(store.folder, number), RULE)
    store.finish(number, TrialState.COMPLETE)
    return store, promote_trial(store, store.trial(number), "pets", folder / "models", CREATED_AT, correction)


@pytest.fixture(scope="module", params=METHODS)
def version(request, data, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, *promoted(request.param, data, images, folder), folder / "models"


def test_files_are_predicted_as_the_trial_predicted_them(version, images):
    _, store, _, root = version
    recorded = TrialFiles(store.folder, 0).load_evidence()["target"]
    answers = predict("pets", [images / "target"], root)
    np.testing.assert_allclose([list(each.probabilities.values()) for each in answers], recorded, **RECORDED)


def test_spec_says_what_the_network_is_and_not_what_was_sampled(version):
    method, _, found, _ = version
    written = load_bundle(found.folder).spec
    assert written.adaptor.name == "none"
    assert (written.head and written.head.name) == (method if method in STEPS else None)
    assert load_bundle(found.folder).lineage.config.adaptor.name == "bottleneck"


def test_the_trial_counts_as_full_fidelity_after_its_only_epoch(version):
    record = version[1].trial(0)
    assert record.at_full_fidelity
    assert [epoch.epoch for epoch in record.epochs] == [record.config.epochs]


@pytest.fixture
def knn(data, images, tmp_path):
    return promoted("knn", data, images, tmp_path)[1].folder


def rewrite_spec(folder, **changes):
    """As whoever tampers with care would: the manifest agrees again."""
    content = json.loads((folder / SPEC).read_text()) | changes
    (folder / SPEC).write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))
    files = {name: _record((folder / name).read_bytes()) for name in (WEIGHTS, SPEC, LINEAGE)}
    (folder / MANIFEST).write_text(Manifest(files=files).model_dump_json())


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"random_forest": {}}, "state must be that of a head for 8 features and 3 classes"),
        ({"knn": {"k": 0}}, "knn.k=0 must be a finite number above 0"),
        ("dann", "closed-form method 'dann' is not known"),
        (None, "does not fit"),
    ],
)
def test_a_head_that_the_weights_are_not_is_refused(knn, head, said):
    rewrite_spec(knn, head=head)
    with pytest.raises(BrokenBundle, match=said):
        load_bundle(knn)


def test_a_changed_head_parameter_is_refused_by_its_hash(knn):
    (knn / SPEC).write_text((knn / SPEC).read_text().replace('"k": 3', '"k": 4'))
    with pytest.raises(BrokenBundle, match=r"model\.json has changed"):
        load_bundle(knn)


def test_a_version_from_before_there_were_such_heads_still_loads(folder):
    rewrite_spec(folder, head="absent")
    assert "head" not in json.loads((folder / SPEC).read_text())
    assert load_bundle(folder).spec.head is None


def test_a_trial_that_has_not_ended_can_not_be_promoted(version):
    _, store, _, root = version
    running = store.ask()
    with pytest.raises(InvalidInput, match="only a complete trial can be promoted"):
        promote_trial(store, running, "pets", root, CREATED_AT)


def test_a_version_adds_the_correction_of_its_trial_to_the_logits(data, images, tmp_path):
    correction = (1.5, 0.0, -1.5)
    store, version = promoted("logistic", data, images, tmp_path, correction)
    as_it_was = promote_trial(store, store.trial(0), "pets", tmp_path / "models", CREATED_AT)
    served, plain = (
        load_bundle(each.folder).probabilities(data.recorded["target"].numpy()) for each in (version, as_it_was)
    )
    joint = plain * np.exp(correction)
    np.testing.assert_allclose(served, joint / joint.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_head_of_steps_takes_no_correction(data, images, tmp_path):
    with pytest.raises(
        InvalidInput, match=r"does not fit a NearestNeighboursHead head of 3 classes; promote the trial"
    ):
        promoted("knn", data, images, tmp_path, (1.0, 0.0, -1.0))
