"""All of the source, and one network of several: against means by hand."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.models.ensemble import Ensemble
from ray_tl.training.batches import PairedBatches
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import evaluate_checkpoint, train_trial
from ray_tl.training.network import PREFIX, build_model, load_model
from ray_tl.training.refit import combination_of, combine_trials, soup
from tests.examples import spec
from tests.training.tiny import RECORDED, RULE, Reports, tiny_config, tiny_data, tiny_pair

BATCH_NORM = {"adaptor": "bottleneck"}


@pytest.fixture
def data():
    return tiny_data(tiny_pair().with_whole_source())


@pytest.fixture
def seeds(data, tmp_path):
    """Three networks that began with the same weights."""
    found = [TrialFiles(tmp_path, number) for number in range(3)]
    for files in found:
        config = tiny_config(**BATCH_NORM, seed=10 + files.number, initial_seed=3)
        train_trial(config, data, Reports(), files, RULE)
    return found


def weights(files):
    return {name: value for name, value in files.load_checkpoint()["task"].items() if name.startswith(PREFIX)}


def test_the_whole_source_is_the_source_and_then_the_hold_out():
    pair = tiny_pair()
    whole = pair.with_whole_source()
    np.testing.assert_array_equal(whole.source.inputs, np.concatenate([pair.source.inputs, pair.source_holdout.inputs]))
    np.testing.assert_array_equal(whole.source.labels, [*pair.source.labels, *pair.source_holdout.labels])
    assert len(whole.source.ids) == len(whole.source) == 36
    assert whole.source_holdout is pair.source_holdout


@pytest.mark.parametrize("sizes", [(24, 36, 8), (50, 62, 64), (60, 75, 64), (300, 375, 64)])
def test_no_refit_takes_fewer_steps_than_its_trial(sizes):
    before, whole, batch_size = sizes
    steps = [PairedBatches(rows, 500, batch_size, 0, 1, 0).steps_per_epoch for rows in (before, whole)]
    assert steps[1] >= steps[0]


def test_trials_of_one_initial_seed_begin_with_the_same_weights(data):
    one, other = (build_model(tiny_config(seed=seed, initial_seed=3), data) for seed in (10, 11))
    assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert_close(one.state_dict(), build_model(tiny_config(seed=3), data).state_dict(), rtol=0, atol=0)


def test_a_soup_is_the_mean_of_weights_and_of_running_statistics(data, seeds, tmp_path):
    files = TrialFiles(tmp_path, 5)
    combine_trials("soup", seeds, tiny_config(**BATCH_NORM), data, files, RULE)
    each = [weights(one) for one in seeds]
    statistics = [name for name in each[0] if name.endswith("running_mean")]
    assert statistics
    for name in [f"{PREFIX}head.weight", *statistics]:
        assert_close(weights(files)[name], sum(one[name] for one in each) / 3)


def test_an_ensemble_predicts_the_mean_softmax_of_its_members(data, seeds, tmp_path):
    files, config = TrialFiles(tmp_path, 5), tiny_config(**BATCH_NORM)
    report = combine_trials("ensemble", seeds, config, data, files, RULE)
    expected = np.mean([one.load_evidence()["target"] for one in seeds], axis=0)
    np.testing.assert_allclose(files.load_evidence()["target"], expected, **RECORDED)
    assert report.epoch == config.epochs
    assert files.load_final_evidence() is not None


@pytest.mark.parametrize("kind", ["soup", "ensemble"])
def test_what_was_combined_comes_back_from_its_checkpoint(kind, data, seeds, tmp_path):
    files, config = TrialFiles(tmp_path, 5), tiny_config(**BATCH_NORM)
    combine_trials(kind, seeds, config, data, files, RULE)
    assert isinstance(load_model(config, data, files), Ensemble) == (kind == "ensemble")
    assert evaluate_checkpoint(config, tiny_data(), files, RULE).agreement == 1


def test_an_ensemble_of_heads_that_are_solved_for_comes_back_too(data, tmp_path):
    config = tiny_config(method={"knn": {"k": 3}})
    seeds, files = [TrialFiles(tmp_path, number) for number in range(2)], TrialFiles(tmp_path, 5)
    for one in seeds:
        train_trial(config.model_copy(update={"seed": one.number}), data, Reports(), one, RULE)
    combine_trials("ensemble", seeds, config, data, files, RULE)
    assert evaluate_checkpoint(config, data, files, RULE).agreement == 1


@pytest.mark.parametrize("asked", ["nearest", "soup", "distilled", "ensemble"])
def test_networks_with_a_head_of_their_own_on_equal_features_are_combined_as_asked(asked):
    assert combination_of(tiny_config(freeze_depth="head_only"), spec(refit={"combine": asked})) == (asked, "")


@pytest.mark.parametrize(
    ("asked", "why"), [("soup", "have no mean that is one"), ("distilled", "learn from no teacher")]
)
def test_heads_that_are_solved_for_are_combined_by_the_nearest_and_it_is_said_why(asked, why):
    found, reason = combination_of(tiny_config(method={"knn": {"k": 3}}), spec(refit={"combine": asked}))
    assert found == "nearest"
    assert reason == f"heads of 'knn' are solved for and {why}, so the network nearest to their mean stands for them"


@pytest.mark.parametrize("depth", ["everything", "last_1"])
def test_no_soup_is_made_of_networks_that_train_from_nothing(depth):
    found, reason = combination_of(tiny_config(freeze_depth=depth), spec(refit={"combine": "soup"}))
    assert found == "nearest"
    assert reason.startswith("stages of 'tiny_cnn' train without pretrained weights, and such networks have no mean")


def test_a_soup_is_made_of_pretrained_networks_that_train():
    config = tiny_config(backbone="resnet18", freeze_depth="everything")
    assert combination_of(config, spec(refit={"combine": "soup"})) == ("soup", "")


def test_heads_that_are_solved_for_make_no_soup(data, tmp_path):
    config, files = tiny_config(method={"knn": {"k": 3}}), TrialFiles(tmp_path, 0)
    train_trial(config, data, Reports(), files, RULE)
    with pytest.raises(InvalidInput, match=r"refit\.combine='soup' has no mean of heads that are solved for"):
        soup([load_model(config, data, files)])


def test_an_ensemble_of_networks_with_one_frozen_prefix_is_that_of_whole_networks(data, tmp_path):
    config = tiny_config(freeze_depth=2, initial_seed=3)
    seeds, files = [TrialFiles(tmp_path, number) for number in range(2)], TrialFiles(tmp_path, 5)
    for one in seeds:
        train_trial(config.model_copy(update={"seed": one.number}), data, Reports(), one, RULE)
    combine_trials("ensemble", seeds, config, data, files, RULE)
    images = torch.as_tensor(data.pair.target.inputs)
    expected = load_model(config, data, files).eval()(images)[1].softmax(1).detach().numpy()
    np.testing.assert_allclose(files.load_evidence()["target"], expected, **RECORDED)
