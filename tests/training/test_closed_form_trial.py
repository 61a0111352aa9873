"""Trials whose head is solved for, against scikit-learn on the features of the untouched backbone."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ray_tl.training.closed_form import ClosedFormRun
from ray_tl.training.data import ActivationCache
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from ray_tl.training.network import build_model
from tests.training.tiny import RULE, Reports, tiny_config, tiny_data, tiny_pair

LABELLED = tiny_pair(num_labelled=7)


def features(config, images):
    """Of the backbone as its weights were made, in evaluation mode."""
    model = build_model(config, tiny_data()).eval()
    with torch.no_grad():
        return model(torch.from_numpy(images))[0].double().numpy()


def run_of(method, data=None, **changes):
    run = ClosedFormRun(tiny_config(method=method, **changes), data or tiny_data(), RULE)
    return run, run.epoch(3)


def neighbours(images, labels, config):
    return make_pipeline(StandardScaler(), KNeighborsClassifier(1)).fit(features(config, images), labels)


def test_evidence_and_scores_are_those_of_scikit_learn_on_frozen_features():
    run, report = run_of("logistic")
    pair = tiny_pair()
    probe = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg", tol=1e-8, max_iter=10_000))
    probe.fit(features(run.config, pair.source.inputs), pair.source.labels)
    for name, array in run.evidence.items():
        expected = probe.predict_proba(features(run.config, getattr(pair, name).inputs))
        np.testing.assert_allclose(array, expected, atol=1e-4)
    holdout = probe.score(features(run.config, pair.source_holdout.inputs), pair.source_holdout.labels)
    assert report.scores["source_accuracy"] == holdout


def test_report_says_that_nothing_was_trained():
    _, report = run_of("nearest_mean", freeze_depth=1)
    assert (report.epoch, report.losses, report.weights, report.lr) == (4, {}, {}, 0.0)
    assert (report.freeze_depth, report.cached_stages) == (3, 3)
    assert 0 < report.health["domain_accuracy"] <= 1
    assert report.findings == []


def test_an_adaptor_that_was_left_out_is_named():
    run, report = run_of("nearest_mean", adaptor="bottleneck")
    assert run.model.feature_dim == 8
    (finding,) = report.findings
    assert finding.startswith("adaptor 'bottleneck' was left out: 'nearest_mean' trains nothing")


def test_without_room_in_the_cache_the_head_is_the_same():
    without = tiny_data()
    without.cache = ActivationCache(0)
    (cached, _), (computed, report) = run_of("coral_closed"), run_of("coral_closed", without)
    assert report.cached_stages == 0
    torch.testing.assert_close(computed.model.head.state_dict(), cached.model.head.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_labelled_target_examples_join_the_source_of_a_probe_unless_their_weight_is_zero(weight):
    run, _ = run_of({"knn": {"k": 1}}, tiny_data(LABELLED), target_label_weight=weight)
    domains = [LABELLED.source, LABELLED.target_labelled][: 1 + (weight > 0)]
    images, labels = (np.concatenate([getattr(each, name) for each in domains]) for name in ("inputs", "labels"))
    probe = neighbours(images, labels, run.config)
    expected = probe.predict(features(run.config, LABELLED.target.inputs))
    np.testing.assert_array_equal(run.evidence["target"].argmax(axis=1), expected)


def test_predictions_that_have_left_classes_get_a_remedy_that_fits():
    _, report = run_of({"random_forest": {"num_trees": 100}})
    (finding,) = report.findings
    assert "some classes may have been given up: choose another method" in finding


def test_files_are_on_disk_before_the_report_is_made(tmp_path):
    files, seen = TrialFiles(tmp_path, 0), []

    def report(epoch):
        seen.append((epoch.epoch, files.load_checkpoint()["report"]["epoch"], files.evidence.is_file()))
        return False

    train_trial(tiny_config(method="logistic"), tiny_data(), report, files, RULE)
    assert seen == [(4, 4, True)]


def test_a_trial_killed_before_its_report_is_on_disk_is_solved_once_more(tmp_path):
    files, reports = TrialFiles(tmp_path, 0), Reports()
    files.save_evidence({"target": np.zeros((1, 3), np.float32)})
    assert train_trial(tiny_config(method="logistic"), tiny_data(), reports, files, RULE)
    assert [report.epoch for report in reports] == [4]
    assert files.load_evidence()["target"].shape == (30, 3)
