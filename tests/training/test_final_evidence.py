"""What a trial that has ended leaves for validators: features, mixtures, head."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ray_tl.training import data as trial_data
from ray_tl.training.files import TrialFiles
from ray_tl.training.final_evidence import partners
from ray_tl.training.loop import train_trial
from ray_tl.training.network import load_model
from ray_tl.validation.evidence import centred_logits
from tests.training.tiny import RULE, Reports, tiny_config, tiny_data, tiny_pair
from tests.training.tiny_text import tiny_text_pair

LEARNS = {"epochs": 12, "optimizer": {"adamw": {"lr": 0.02}}}
HALF = {"rtol": 2e-3, "atol": 2e-3}
ENDS = [{}, {"averaging": "ema"}, {"averaging": "greedy_soup"}, {"method": "logistic"}, {"freeze_depth": 3}]


def ended(folder, data=None, **changes):
    """Configuration, files and final evidence of a whole trial."""
    config, files = tiny_config(**{**LEARNS, **changes}), TrialFiles(folder, 7)
    train_trial(config, data or tiny_data(), Reports(), files, RULE)
    return config, files, files.load_final_evidence()


def by_hand(config, files, inputs):
    """Features and softmax by the network that the checkpoint holds."""
    model = load_model(config, tiny_data(), files).eval()
    with torch.no_grad():
        features, logits = model(torch.as_tensor(inputs))
    return features.numpy(), logits.softmax(1).numpy()


@pytest.mark.parametrize("changes", ENDS)
def test_features_are_those_of_the_network_that_it_ends_as(changes, tmp_path):
    config, files, found = ended(tmp_path, **changes)
    for name, features in found.features.items():
        expected, _ = by_hand(config, files, getattr(tiny_pair(), name).inputs[features.rows])
        np.testing.assert_allclose(features.values, expected, **HALF)


def test_labels_are_those_of_the_rows(tmp_path):
    found, pair = ended(tmp_path)[2], tiny_pair()
    assert found.training_labels.tolist() == pair.source.labels[found.features["source"].rows].tolist()
    assert found.holdout_labels.tolist() == pair.source_holdout.labels.tolist()


def test_mixtures_are_predicted_by_the_network_that_it_ends_as(tmp_path):
    config, files, found = ended(tmp_path)
    images, mixes = tiny_pair().target.inputs / np.float32(255), found.mixes
    mixed = 0.55 * images[mixes.first] + 0.45 * images[mixes.second]
    np.testing.assert_allclose(mixes.probabilities, by_hand(config, files, np.float32(mixed))[1], **HALF)


def test_mixtures_behind_frozen_stages_are_of_activations(tmp_path):
    config, files, found = ended(tmp_path, freeze_depth=3)  # pooled features are all that is left to be mixed
    features, mixes = by_hand(config, files, tiny_pair().target.inputs)[0], found.mixes
    mixed = torch.tensor(0.55 * features[mixes.first] + 0.45 * features[mixes.second])
    expected = load_model(config, tiny_data(), files).head(mixed.float()).softmax(1).detach()
    np.testing.assert_allclose(mixes.probabilities, expected, **HALF)


def test_mixtures_of_texts_are_of_their_features(tmp_path):
    data = tiny_data(tiny_text_pair())
    config, files, found = ended(tmp_path, data, backbone="tiny_bert", epochs=1, optimizer="adamw")
    model, mixes = load_model(config, data, files).eval(), found.mixes
    with torch.no_grad():
        features = model(data.rows["target"])[0]
        expected = model.head(torch.lerp(features[mixes.second], features[mixes.first], 0.55)).softmax(1)
    np.testing.assert_allclose(mixes.probabilities, expected, **HALF)


def test_a_linear_head_is_kept_and_another_is_not(tmp_path):
    config, files, found = ended(tmp_path / "linear")
    weight = load_model(config, tiny_data(), files).head.weight.detach()
    np.testing.assert_allclose(found.head, weight, **HALF)
    assert ended(tmp_path / "neighbours", method="knn")[2].head is None


def test_partners_are_of_the_same_predicted_class_and_of_another_in_turn():
    predicted = np.arange(40) % 4
    found = partners(np.arange(40), predicted)
    assert (predicted[found] == predicted).sum() == 20
    assert (found != np.arange(40)).all()


def test_where_all_are_predicted_alike_partners_are_others_all_the_same():
    assert (partners(np.arange(3), np.zeros(3, np.int64)) != np.arange(3)).all()


def test_a_trial_that_is_told_to_stop_leaves_it_only_when_it_has_gone_on(tmp_path):
    config, files = tiny_config(), TrialFiles(tmp_path, 7)
    train_trial(config, tiny_data(), Reports(stop_at=2), files, RULE)
    assert files.load_final_evidence() is None
    train_trial(config, tiny_data(), Reports(), files, RULE)
    assert files.load_final_evidence() is not None


def test_one_target_example_is_too_few(tmp_path):
    assert ended(tmp_path, tiny_data(tiny_pair(num_target=1)))[2] is None


def test_logits_give_the_probabilities_and_have_no_mean():
    probabilities = np.float32([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    logits = centred_logits(probabilities)
    np.testing.assert_allclose(F.softmax(torch.tensor(logits), 1), probabilities, atol=1e-6)
    np.testing.assert_allclose(logits.mean(1), 0, atol=1e-4)


@pytest.fixture
def few_recorded(monkeypatch):
    monkeypatch.setattr(trial_data, "RECORDED_ROWS", 9)


@pytest.mark.parametrize("freeze_depth", [0, 3])
def test_of_a_large_domain_some_rows_are_recorded_and_all_are_trained_on(few_recorded, freeze_depth, tmp_path):
    config, files, found = ended(tmp_path, method="im", freeze_depth=freeze_depth)
    rows = trial_data.recorded_rows("target", 30, 3).numpy()
    assert len(rows) == 9
    expected = by_hand(config, files, tiny_pair().target.inputs[rows])[1]
    np.testing.assert_allclose(files.load_evidence()["target"], expected, rtol=0, atol=5e-4)
    assert len(found.features["source"].rows) == 24
    held_out = trial_data.recorded_rows("source_holdout", 12, 3)
    assert found.holdout_labels.tolist() == tiny_pair().source_holdout.labels[held_out].tolist()


def test_fewer_rows_are_recorded_where_there_are_many_classes():
    assert trial_data.num_recorded(1_000_000, 1000) == 20_000
    assert trial_data.num_recorded(1_000_000, 10_000) == 2_000
    assert trial_data.num_recorded(500, 1000) == 500
    assert trial_data.recorded_rows("target", 500, 1000) is None


@pytest.mark.parametrize(("rate", "expected"), [(1e-30, 1), (0.02, 4)])
def test_evidence_is_written_only_when_it_has_changed(rate, expected, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(TrialFiles, "save_evidence", lambda files, arrays: written.append(arrays))
    config = tiny_config(optimizer={"sgd": {"lr": rate}}, freeze_depth=3)
    train_trial(config, tiny_data(), Reports(), TrialFiles(tmp_path, 0), RULE)
    assert len(written) == expected
