"""A trial that was interrupted ends bit for bit where it would have ended otherwise."""

from dataclasses import replace

import pytest
from torch.testing import assert_close

from ray_tl.study.artifacts import RemoteArtifacts
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import evaluate_checkpoint, train_trial
from tests.training.tiny import RULE, UNFREEZE_ONE_STAGE_AN_EPOCH, Reports, tiny_config, tiny_data

EXACT = {"rtol": 0, "atol": 0}


@pytest.fixture(params=["adamw", "sgd"])
def optimizer(request):
    return request.param


@pytest.fixture(params=["affine", "none"])  # without augmentation the frozen stages come from the cache
def config(request, optimizer):
    return tiny_config(
        method="dann", optimizer=optimizer, augmentation=request.param, unfreezing=UNFREEZE_ONE_STAGE_AN_EPOCH
    )


def run(config, files, stop_at=None):
    """A fresh process, as far as a trial can tell: other tensors, another cache."""
    reports = Reports(stop_at)
    train_trial(config, tiny_data(), reports, files, RULE)
    return [replace(report, seconds=0.0) for report in reports]


@pytest.mark.parametrize("stop_at", [1, 3])
def test_an_interrupted_trial_ends_where_an_uninterrupted_one_ends(config, stop_at, tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    expected = run(config, whole)
    before, after = run(config, parts, stop_at), run(config, parts)
    assert after[:stop_at] == before
    assert after == expected
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], **EXACT)
    assert_close(parts.load_evidence(), whole.load_evidence(), **EXACT)


def test_an_interrupted_trial_has_the_optimiser_of_an_uninterrupted_one(config, tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    run(config, whole, stop_at=3)
    run(config, parts, stop_at=1)
    run(config, parts, stop_at=3)  # epochs 1, again, 2 and 3
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert left["report"]["epoch"] == right["report"]["epoch"] == 3
    assert_close(left["optimizer"]["state"], right["optimizer"]["state"], **EXACT)
    assert left["optimizer"]["param_groups"] == right["optimizer"]["param_groups"]


def test_a_trial_goes_on_on_another_machine_from_what_is_at_the_address(config, tmp_path):
    far = RemoteArtifacts(f"file://{tmp_path}/far", "study")
    one, other = (TrialFiles(tmp_path / name, 0, far) for name in ("one", "other"))
    expected, before = run(config, TrialFiles(tmp_path, 0)), run(config, one, stop_at=2)
    after = run(config, other)
    assert (after[:2], after) == (before, expected)
    assert_close(one.load_evidence(), TrialFiles(tmp_path, 0).load_evidence(), **EXACT)
    assert one.load_final_evidence() is not None
    assert evaluate_checkpoint(config, tiny_data(), one, RULE).agreement == 1.0
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("averaging", ["none", "ema", "greedy_soup", "wise_ft"])
def test_a_trial_that_has_ended_keeps_its_network_alone(averaging, tmp_path):
    config, files = tiny_config(optimizer="adamw", averaging=averaging), TrialFiles(tmp_path, 0)
    run(config, files, stop_at=3)
    before = files.load_checkpoint()
    run(config, files)
    state = files.load_checkpoint()
    assert set(state) == {"task", "report", "reports"}
    assert set(state["task"]) == set(before["task"])
    assert evaluate_checkpoint(config, tiny_data(), files, RULE).agreement == 1.0


def test_the_learned_discriminator_is_part_of_the_checkpoint(tmp_path):
    files = TrialFiles(tmp_path, 0)
    run(tiny_config(method="dann"), files, stop_at=1)
    names = [name for name in files.load_checkpoint()["task"] if name.startswith("method.discriminator")]
    assert len(names) == 6  # three layers with weight and bias


def test_a_resumed_trial_reports_its_epochs_again_before_it_goes_on(tmp_path):
    files = TrialFiles(tmp_path, 0)
    before, after = run(tiny_config(), files, stop_at=2), run(tiny_config(), files)
    assert [report.epoch for report in after] == [1, 2, 3, 4]
    assert after[:2] == before


def test_a_trial_that_is_told_to_stop_at_its_old_epoch_trains_no_further(tmp_path):
    files = TrialFiles(tmp_path, 0)
    run(tiny_config(), files, stop_at=2)
    assert [report.epoch for report in run(tiny_config(), files, stop_at=1)] == [1, 2]
    assert files.load_checkpoint()["report"]["epoch"] == 2


def test_a_finished_trial_reports_again_and_trains_no_more(tmp_path):
    files = TrialFiles(tmp_path, 0)
    run(tiny_config(), files)
    written = files.checkpoint.stat().st_mtime_ns
    assert [report.epoch for report in run(tiny_config(), files)] == [1, 2, 3, 4]
    assert files.checkpoint.stat().st_mtime_ns == written
