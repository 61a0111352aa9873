"""Classes described in words: as a head, as a teacher, and as one of the first trials."""

import shutil

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoTokenizer, CLIPModel

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.closed_form import CLOSED_FORM
from ray_tl.errors import InvalidInput
from ray_tl.planning.checks import configuration_problems
from ray_tl.promotion.bundle import Lineage, load_bundle, spec_of, write_bundle
from ray_tl.study.records import DataSource
from ray_tl.training.building import build_task
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from ray_tl.training.network import built, head_of, load_model
from ray_tl.training.run import TrialRun
from tests.tiny_clip import save_tiny_clip, tiny_clip
from tests.training.tiny import RECORDED, RULE, SIDE, Reports, tiny_config, tiny_data, tiny_pair

CLIP = {"clip": {"weights": tiny_clip(1, SIDE)}}
EXACT = {"rtol": 0, "atol": 0}


def logits_of_transformers(images: np.ndarray, template: str) -> torch.Tensor:
    """Of the whole of CLIP, for images normalised by the mean over the colours of its own mean and deviation."""
    folder = tiny_clip(1, SIDE)
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = tokenizer([template.replace("{}", name) for name in "abc"], padding=True, return_tensors="pt")
    mean, std = np.mean([0.48145466, 0.4578275, 0.40821073]), np.mean([0.26862954, 0.26130258, 0.27577711])
    pixels = (torch.from_numpy(images).float() / 255 - mean) / std
    with torch.no_grad():
        return model(texts["input_ids"], pixels.float(), texts["attention_mask"]).logits_per_image


@pytest.mark.parametrize("template", ["a photo of a {}", "the {} drawing"])
def test_probabilities_are_those_of_transformers(template, tmp_path):
    config = tiny_config(backbone=CLIP, method={"zero_shot": {"template": template}})
    files = TrialFiles(tmp_path, 0)
    assert train_trial(config, tiny_data(), Reports(), files, RULE)
    expected = logits_of_transformers(tiny_pair().target.inputs, template).softmax(1)
    assert expected.std(0).max() > 1e-4
    assert_close(torch.tensor(files.load_evidence()["target"]), expected, **RECORDED)


def test_a_version_predicts_without_the_folder_of_clip(tmp_path):
    folder = save_tiny_clip(tmp_path / "clip", 1, SIDE)
    config = tiny_config(backbone={"clip": {"weights": str(folder)}}, method="zero_shot")
    data, files = tiny_data(), TrialFiles(tmp_path, 0)
    train_trial(config, data, Reports(), files, RULE)
    model = load_model(config, data, files).eval()
    head, architecture = head_of(config, model), model.backbone.architecture
    spec = spec_of(built(config), data.pair.preprocessing, ("a", "b", "c"), head, architecture)
    fields = {"study": "x", "trial": 0, "config": config, "data_fingerprint": "", "scores": {}, "libraries": {}}
    lineage = Lineage.model_validate({**fields, "created_at": "2026-01-02T03:04:05+00:00"})
    write_bundle(tmp_path / "v1", model, spec, lineage)
    shutil.rmtree(folder)
    found = load_bundle(tmp_path / "v1").probabilities(data.pair.target.inputs)
    np.testing.assert_allclose(found, files.load_evidence()["target"], **RECORDED)


def test_teacher_of_words_says_what_transformers_says():
    config = tiny_config(backbone=CLIP, adaptor="bottleneck", method={"distillation": {"teacher": "zero_shot"}})
    task, pair = build_task(config, tiny_data()), tiny_pair()
    with torch.no_grad():
        found = task.method.teacher.network(torch.from_numpy(pair.target.inputs))[1]
    assert_close(found, logits_of_transformers(pair.target.inputs, "a photo of a {}"), rtol=1e-4, atol=1e-4)


def teaching(**params: object):
    return tiny_config(backbone=CLIP, method={"distillation": {"teacher": "zero_shot", **params}}, epochs=2)


def test_teacher_of_words_never_changes():
    run = TrialRun(teaching(start=0.5), tiny_data(), RULE)
    before = {name: value.clone() for name, value in run.task.method.teacher.state_dict().items()}
    losses = [run.epoch(epoch).losses["consistency"] for epoch in range(2)]
    assert losses[0] == 0 < losses[1]
    assert_close(dict(run.task.method.teacher.state_dict()), before, **EXACT)


def test_a_trial_with_a_teacher_of_words_resumes_exactly(tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    train_trial(teaching(), tiny_data(), Reports(), whole, RULE)
    train_trial(teaching(), tiny_data(), Reports(stop_at=1), parts, RULE)
    train_trial(teaching(), tiny_data(), Reports(), parts, RULE)
    assert_close(parts.load_checkpoint()["task"], whole.load_checkpoint()["task"], **EXACT)


@pytest.mark.parametrize("method", ["zero_shot", {"distillation": {"teacher": "zero_shot"}}])
def test_a_backbone_that_knows_no_words_is_refused_before_anything_starts(method):
    options = {"source": "digits:mnist", "target": "digits:optdigits", "options": {"image_size": SIDE, "channels": 1}}
    found = configuration_problems([tiny_config(method=method)], DataSource.model_validate(options))
    assert "backbone 'tiny_cnn' knows no words; choose clip" in "".join(found)


@pytest.mark.parametrize("registry", [METHODS, CLOSED_FORM])
def test_a_template_without_a_place_for_the_class_is_refused(registry):
    name = "distillation" if registry is METHODS else "zero_shot"
    with pytest.raises(InvalidInput, match=rf"{name}.template='a photo' has no place for the name of a class"):
        registry.create(name, {"template": "a photo"}, MethodContext(2, 2))
