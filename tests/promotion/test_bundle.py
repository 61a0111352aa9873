import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ray_tl.errors import BrokenBundle, InvalidInput
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.ensemble import Ensemble
from ray_tl.models.transfer_model import build_transfer_model
from ray_tl.promotion.bundle import (
    LINEAGE,
    MANIFEST,
    SPEC,
    WEIGHTS,
    FolderTaken,
    Manifest,
    ModelSpec,
    _record,
    library_versions,
    load_bundle,
    write_bundle,
)

WRITE_WITH_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.transfer_model import build_transfer_model
from ray_tl.promotion.bundle import Lineage, ModelSpec, write_bundle
folder, spec, lineage = Path(sys.argv[1]), ModelSpec.model_validate_json(sys.argv[2]), sys.argv[3]
model = build_transfer_model(spec.backbone, spec.num_classes, BackboneContext(load_weights=False))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
write_bundle(folder, model, spec, Lineage.model_validate_json(lineage))
"""


def reseal(folder: Path) -> None:
    """Make the manifest agree with the files again, as whoever tampers with care would."""
    files = {name: _record((folder / name).read_bytes()) for name in (WEIGHTS, SPEC, LINEAGE)}
    (folder / MANIFEST).write_text(Manifest(files=files).model_dump_json())


def test_reloaded_bundle_predicts_bit_for_bit_what_the_model_did(folder, model, spec, images):
    pixels = torch.from_numpy(np.stack([spec.preprocessing.decode(image) for image in images]))
    expected = model(pixels)[1].softmax(1).detach().numpy()
    answers = load_bundle(folder).predict_images(images)
    np.testing.assert_array_equal([list(answer.probabilities.values()) for answer in answers], expected)


def test_prediction_names_the_most_probable_class_its_probability_and_version(folder, images):
    answer = load_bundle(folder).predict_images(images[:1])[0]
    assert answer.confidence == max(answer.probabilities.values())
    assert answer.probabilities[answer.label] == answer.confidence
    assert list(answer.probabilities) == ["cat", "dog", "eel"]
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert answer.version == "v1"


def test_batches_give_what_one_batch_gives(folder, images):
    bundle = load_bundle(folder)
    whole = [answer.confidence for answer in bundle.predict_images(images)]
    assert [answer.confidence for answer in bundle.predict_images(images, 2)] == pytest.approx(whole, abs=1e-6)


def test_no_images_give_no_predictions(folder):
    assert load_bundle(folder).predict_images([]) == []


def test_an_image_that_is_none_is_invalid_input(folder, images):
    with pytest.raises(InvalidInput, match="not a readable image"):
        load_bundle(folder).predict_images([*images, b"hello"])


def test_spec_and_lineage_come_back_whole_with_scores_that_are_not_numbers(folder, spec, lineage):
    bundle = load_bundle(folder)
    assert bundle.spec == spec
    assert bundle.lineage.model_dump_json() == lineage.model_dump_json()
    assert np.isnan(bundle.lineage.scores["broken"])


def test_the_model_is_in_evaluation_mode(folder):
    assert not any(module.training for module in load_bundle(folder).model.modules())


def test_library_versions_hold_what_decides_a_result():
    vision, text = {"torchvision", "timm"}, {"transformers", "tokenizers"}
    assert set(library_versions()) == {"python", "torch", "peft", "ray", "ray-tl"} | vision | text


def test_class_names_must_be_unique(spec):
    with pytest.raises(ValidationError, match="hold a name twice"):
        ModelSpec(backbone=spec.backbone, preprocessing=spec.preprocessing, classes=("cat", "cat"))


@pytest.mark.parametrize("position", [0, 100, -1])
def test_one_flipped_bit_in_the_weights_is_refused(folder, position):
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[position] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(BrokenBundle, match=r"model\.safetensors has changed.*promote the trial again"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [WEIGHTS, SPEC, LINEAGE, MANIFEST])
def test_a_removed_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(BrokenBundle, match=f"has no {name}|{name} is missing"):
        load_bundle(folder)


def test_an_extra_file_is_refused_by_name(folder):
    (folder / "weights.pkl").write_bytes(b"")
    with pytest.raises(BrokenBundle, match=r"weights\.pkl does not belong there"):
        load_bundle(folder)


def test_a_folder_that_does_not_exist_is_no_version(tmp_path):
    with pytest.raises(BrokenBundle, match="so it is no model version"):
        load_bundle(tmp_path / "v9")


def test_a_changed_label_list_is_refused(folder):
    path = folder / SPEC
    path.write_text(path.read_text().replace("eel", "emu"))
    with pytest.raises(BrokenBundle, match=r"model\.json has changed"):
        load_bundle(folder)


def test_a_shorter_label_list_is_refused_even_with_a_manifest_that_agrees(folder):
    content = json.loads((folder / SPEC).read_text())
    (folder / SPEC).write_text(json.dumps(content | {"classes": ["cat", "dog"]}))
    reseal(folder)
    with pytest.raises(BrokenBundle, match=r"does not fit model\.json"):
        load_bundle(folder)


def test_a_bundle_from_before_taps_and_norms_were_recorded_is_loaded(folder, spec):
    content = json.loads((folder / SPEC).read_text())
    for name in ("features", "domain_norm", "freeze_depth", "test_time_augmentation"):
        del content[name]
    (folder / SPEC).write_text(json.dumps(content))
    reseal(folder)
    assert load_bundle(folder).spec == spec


def test_views_that_nobody_knows_are_refused_even_with_a_manifest_that_agrees(folder):
    content = json.loads((folder / SPEC).read_text())
    (folder / SPEC).write_text(json.dumps(content | {"test_time_augmentation": {"name": "squint"}}))
    reseal(folder)
    with pytest.raises(BrokenBundle, match="test-time augmentation 'squint' is not known"):
        load_bundle(folder)


def test_an_unknown_key_is_refused_even_with_a_manifest_that_agrees(folder):
    content = json.loads((folder / SPEC).read_text())
    (folder / SPEC).write_text(json.dumps(content | {"threshold": 0.5}))
    reseal(folder)
    with pytest.raises(BrokenBundle, match=r"model\.json is not valid \(threshold"):
        load_bundle(folder)


def test_a_manifest_can_not_name_files_elsewhere(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../v2/model.json"] = manifest["files"].pop(SPEC)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BrokenBundle, match=r"model\.json is not in the manifest.*is in the manifest only"):
        load_bundle(folder)


def test_weights_that_are_no_safetensors_are_refused_even_with_a_manifest_that_agrees(folder):
    torch.save({}, folder / WEIGHTS)
    reseal(folder)
    with pytest.raises(BrokenBundle, match=r"model\.safetensors does not fit"):
        load_bundle(folder)


def test_a_version_is_never_written_over(folder, model, spec, lineage):
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(FolderTaken, match="versions never change"):
        write_bundle(folder, model, spec, lineage.model_copy(update={"trial": 8}))
    assert (folder / MANIFEST).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["v1"]


def test_a_write_that_fails_part_way_leaves_nothing(tmp_path, model, spec, lineage):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bundle(tmp_path / "pets" / "v1", model, spec, lineage)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "pets").iterdir()) == []


def test_a_process_killed_while_it_writes_leaves_no_visible_version(tmp_path, spec, lineage):
    folder = tmp_path / "pets" / "v1"
    arguments = [str(folder), spec.model_dump_json(), lineage.model_dump_json()]
    done = subprocess.run([sys.executable, "-c", WRITE_WITH_A_LIMIT, *arguments], timeout=120)
    assert done.returncode == -signal.SIGXFSZ
    (left,) = folder.parent.iterdir()
    assert left.name.startswith(".v1.")
    assert not folder.exists()


def test_an_ensemble_comes_back_with_the_mean_softmax_of_its_members(tmp_path, spec, lineage, images):
    members = [build_transfer_model(spec.backbone, 3, BackboneContext(load_weights=False)).eval() for _ in range(3)]
    stated = spec.model_copy(update={"num_members": 3})
    bundle = load_bundle(write_bundle(tmp_path / "pets" / "v1", Ensemble(members), stated, lineage))
    pixels = torch.from_numpy(np.stack([spec.preprocessing.decode(image) for image in images]))
    expected = sum(member(pixels)[1].softmax(1) for member in members).detach().numpy() / 3
    answers = [list(answer.probabilities.values()) for answer in bundle.predict_images(images)]
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)


def test_a_bundle_whose_weights_are_of_fewer_members_is_broken(tmp_path, spec, lineage, model):
    folder = write_bundle(tmp_path / "pets" / "v1", model, spec.model_copy(update={"num_members": 2}), lineage)
    with pytest.raises(BrokenBundle, match=r"model.safetensors does not fit model.json"):
        load_bundle(folder)
