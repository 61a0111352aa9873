"""One network that has learned what several predict: against means by hand, and against itself without an interrupt."""

from pathlib import Path

import numpy as np
import pytest
from torch.testing import assert_close

from ray_tl.models.transfer_model import TransferModel
from ray_tl.training.distillation import distil_trials, mean_predictions
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import evaluate_checkpoint, train_trial
from ray_tl.training.network import load_model
from tests.gloo import run_on_ranks
from tests.training.tiny import RECORDED, RULE, Reports, tiny_config, tiny_data, tiny_pair

CONFIG = tiny_config(method="mcc", epochs=20, optimizer={"adamw": {"lr": 0.01}})
EVEN = tiny_config(epochs=4, batch_size=12)  # shared evenly by two ranks


@pytest.fixture
def data():
    return tiny_data(tiny_pair().with_whole_source())


@pytest.fixture
def seeds(data, tmp_path):
    return trained_seeds(CONFIG, data, tmp_path)


def trained_seeds(config, data, folder):
    found = [TrialFiles(folder, number) for number in range(2)]
    for files in found:
        train_trial(config.model_copy(update={"seed": 10 + files.number}), data, Reports(), files, RULE)
    return found


def student(seeds, data, number, config=CONFIG, stop_at=None):
    """What is distilled from these, its files, and its reports."""
    files, reports = TrialFiles(seeds[0].folder, number), Reports(stop_at)
    distil_trials(seeds, config, data, reports, files, RULE)
    return files, reports


def weights(files):
    return files.load_checkpoint()["task"]


@pytest.mark.parametrize("depth", [0, 2])
def test_soft_targets_are_the_mean_of_what_the_networks_predict(depth, data, tmp_path):
    config = CONFIG.model_copy(update={"freeze_depth": depth})
    seeds = trained_seeds(config, data, tmp_path)
    found = mean_predictions(seeds, config, data)
    networks = [load_model(config, data, files).eval() for files in seeds]
    for logarithms, rows in zip(found, (data.rows["source"], data.rows["target"]), strict=True):
        expected = sum(network(rows)[1].softmax(dim=1) for network in networks) / 2
        np.testing.assert_allclose(logarithms.float().exp(), expected.detach(), **RECORDED)


def test_a_student_learns_from_soft_targets_and_from_no_label(data, seeds):
    data.labels = (data.labels + 1) % 3
    files, reports = student(seeds, data, 5)
    mean = np.mean([each.load_evidence()["target"] for each in seeds], axis=0).argmax(axis=1)
    assert (files.load_evidence()["target"].argmax(axis=1) == mean).mean() > 0.8
    assert reports[-1].losses["task"] < reports[0].losses["task"]
    assert reports[-1].losses["consistency"] < reports[0].losses["consistency"]


def test_a_student_is_one_network_like_any_other(data, seeds):
    files, reports = student(seeds, data, 5)
    assert [report.epoch for report in reports] == list(range(1, 21))
    assert isinstance(load_model(CONFIG, data, files), TransferModel)
    assert evaluate_checkpoint(CONFIG, tiny_data(), files, RULE).agreement == 1
    assert files.load_final_evidence() is not None


def test_a_student_that_was_interrupted_ends_as_it_would_have(data, seeds):
    whole, _ = student(seeds, data, 5)
    cut, _ = student(seeds, data, 6, stop_at=3)
    resumed, reports = student(seeds, data, 6)
    assert [report.epoch for report in reports] == list(range(1, 21))
    assert cut == resumed
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_what_its_trial_did_with_labels_and_losses_is_not_done_to_a_student(data, seeds):
    changes = {
        "mixing": "mixup",
        "class_balance": "sampling",
        "gradient_masking": "project",
        "loss_weighting": "linear",
    }
    stated = tiny_config(**CONFIG.model_dump(include={"method", "epochs", "optimizer"}), **changes)
    found, expected = student(seeds, data, 5, stated)[0], student(seeds, data, 6)[0]
    assert_close(weights(found), weights(expected), rtol=0, atol=0)


def student_on_this_rank(folder):
    """Task losses of a student, as rank 0 reports them."""
    data, seeds = tiny_data(tiny_pair().with_whole_source()), [TrialFiles(Path(folder), number) for number in range(2)]
    _, reports = student(seeds, data, 7, EVEN)
    return [report.losses["task"] for report in reports]


def test_two_ranks_distil_what_one_process_does(data, tmp_path):
    seeds = trained_seeds(EVEN, data, tmp_path)
    first, second = run_on_ranks(student_on_this_rank, 2, str(tmp_path))
    whole, reports = student(seeds, data, 6, EVEN)
    assert second == []
    assert first == pytest.approx([report.losses["task"] for report in reports], rel=1e-3)
    found, expected = (files.load_evidence()["target"] for files in (TrialFiles(tmp_path, 7), whole))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2)
