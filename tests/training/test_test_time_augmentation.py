"""Predictions averaged over views: in a trial, from the cache, looked at again, and in the bundle."""

import numpy as np
import pytest
import torch

from ray_tl.config import Component
from ray_tl.data.augmentation import views_of
from ray_tl.promotion.bundle import Lineage, load_bundle, spec_of, write_bundle
from ray_tl.training.data import ActivationCache
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, evaluate_checkpoint, train_trial
from ray_tl.training.network import load_model
from tests.training.test_activation_cache import counted
from tests.training.tiny import RECORDED, RULE, Reports, tiny_config, tiny_data, tiny_pair

CLOSE = {"rtol": 0, "atol": 1e-6}
CROPS = {"crops": {"num_crops": 3, "scale": 0.75}}


def finished(folder, **changes):
    config, files = tiny_config(test_time_augmentation=CROPS, epochs=1, **changes), TrialFiles(folder, 0)
    train_trial(config, tiny_data(), Reports(), files, RULE)
    return config, files


def averaged(model, images):
    """By hand: torch's own mean of the softmax of each view."""
    with torch.no_grad():
        views = [view.change(torch.from_numpy(images)) for view in views_of(Component.model_validate(CROPS))]
        return torch.stack([model.eval()(view)[1].softmax(1) for view in views]).mean(0).numpy()


@pytest.mark.parametrize("changes", [{}, {"freeze_depth": 3}, {"method": "nearest_mean"}, {"augmentation": "affine"}])
def test_evidence_is_the_mean_softmax_over_the_views(changes, tmp_path):
    config, files = finished(tmp_path, **changes)
    expected = averaged(load_model(config, tiny_data(), files), tiny_pair().target.inputs)
    np.testing.assert_allclose(files.load_evidence()["target"], expected, **RECORDED)
    assert evaluate_checkpoint(config, tiny_data(), files, RULE).agreement == 1.0


def test_views_of_frozen_stages_are_computed_once():
    data, config = tiny_data(), tiny_config(test_time_augmentation=CROPS, freeze_depth=3)
    TrialRun(config, data, RULE).epoch(0)
    second = TrialRun(config, data, RULE)
    _, computed = counted(second.task.model)
    second.epoch(0)
    assert computed == []


def test_without_room_in_the_cache_the_evidence_is_the_same():
    config, data, without = tiny_config(test_time_augmentation=CROPS, freeze_depth=3), tiny_data(), tiny_data()
    without.cache = ActivationCache(0)
    runs = [TrialRun(config, each, RULE) for each in (data, without)]
    assert [run.epoch(0).cached_stages for run in runs] == [3, 0]
    np.testing.assert_allclose(runs[0].evidence["target"], runs[1].evidence["target"], **CLOSE)


def test_views_are_kept_of_evaluated_domains_alone():
    data = tiny_data()
    run = TrialRun(tiny_config(test_time_augmentation="flips", freeze_depth=3), data, RULE)
    run.epoch(0)
    assert [sorted(inputs.rows) for inputs in run._feed.evaluated][1] == ["source_holdout", "target", "target_test"]


def test_a_bundle_says_what_its_trial_said(tmp_path):
    config, files = finished(tmp_path)
    pair, model = tiny_pair(), load_model(config, tiny_data(), files)
    spec = spec_of(config, pair.preprocessing, pair.source.classes)
    lineage = {"study": "s", "trial": 0, "config": config, "data_fingerprint": "", "scores": {}, "libraries": {}}
    lineage["created_at"] = "2026-01-02T03:04:05+00:00"
    bundle = load_bundle(write_bundle(tmp_path / "v1", model, spec, Lineage.model_validate(lineage)))
    np.testing.assert_allclose(bundle.probabilities(pair.target.inputs), files.load_evidence()["target"], **RECORDED)
