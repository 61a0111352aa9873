"""A trial on two ranks is the trial of one process: losses, gradients and weights, while stages unfreeze.

In float64, so that what remains of a difference is the order of sums and not the precision.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ray_tl.collectives import rank
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, evaluate_checkpoint, train_trial
from tests.gloo import run_on_ranks
from tests.training.tiny import RULE, UNFREEZE_ONE_STAGE_AN_EPOCH, Reports, tiny_config, tiny_data

METHODS = ["source_only", "coral", "mmd", "dann", "mcc", "im"]
SETTINGS = {
    "none": {},
    "affine": {"augmentation": "affine"},
    "bottleneck": {"adaptor": {"bottleneck": {"width": 6, "dropout": 0.3}}},
}
CASES = [(method, setting) for method in METHODS for setting in ("none", "affine")]
CASES += [("coral", "bottleneck"), ("mcc", "bottleneck")]
FROZEN_IN_EPOCHS = {"conv2": 2, "conv1": 3}  # with the head alone in the first epoch; the pool has no parameters
STAGES = {"conv1": "model.backbone.stages.0.0.weight", "conv2": "model.backbone.stages.1.0.weight"}
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def config_of(method: str, setting: str):
    return tiny_config(
        method=method,
        batch_size=12,
        unfreezing=UNFREEZE_ONE_STAGE_AN_EPOCH,
        optimizer={"sgd": {"lr": 0.05}},
        lr_multipliers={"uniform": {"head": 2.0}},
        **SETTINGS[setting],
    )


def train_all(cases: list) -> dict:
    """What this rank says of each case after each epoch."""
    torch.set_default_dtype(torch.float64)
    try:
        return {f"{method} {setting}": train(config_of(method, setting)) for method, setting in cases}
    finally:
        torch.set_default_dtype(torch.float32)


def train(config) -> list[dict]:
    run = TrialRun(config, tiny_data(), RULE)
    before = snapshot(run.task.state_dict())
    return [{"before": before, **after_epoch(run, epoch)} for epoch in range(config.epochs)]


def after_epoch(run: TrialRun, epoch: int) -> dict:
    report = run.epoch(epoch)
    return {
        "losses": report.losses,
        "scores": report.scores,
        "depth": report.freeze_depth,
        "state": snapshot(run.task.state_dict()),
        "gradients": snapshot({name: value.grad for name, value in run.task.named_parameters()}),
    }


def snapshot(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items() if value is not None}


def finish_on_disk(folder: str) -> dict:
    """A trial that both ranks begin, are told to stop, take up again and evaluate."""
    config, files, data = config_of("dann", "affine"), TrialFiles(Path(folder), 0), tiny_data()
    first, second = Reports(stop_at=2), Reports()
    began = train_trial(config, data, first, files, RULE)
    ended = train_trial(config, data, second, files, RULE)
    reported = [report.epoch for report in [*first, *second]]
    agreement = evaluate_checkpoint(config, data, files, RULE).agreement
    final = files.load_final_evidence()
    return {
        "rank": rank(),
        "finished": [began, ended],
        "reported": reported,
        "agreement": agreement,
        "features": final.features["target"].values.tolist(),
        "mixes": final.mixes.probabilities.tolist(),
    }


def on_rank(cases: list, folder: str) -> dict:
    return {**train_all(cases), "on disk": finish_on_disk(folder)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process says, and what each of two ranks says."""
    return [train_all(CASES), *run_on_ranks(on_rank, 2, CASES, str(tmp_path_factory.mktemp("study")))]


@pytest.fixture(params=[f"{method} {setting}" for method, setting in CASES])
def case(request, runs):
    """One case: the epochs of one process and of each rank, all four stages of unfreezing."""
    return [run[request.param] for run in runs]


def test_each_epoch_unfreezes_one_stage(case):
    assert [[epoch["depth"] for epoch in epochs] for epochs in case] == [[3, 2, 1, 0]] * 3


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize("key", ["losses", "gradients", "state"])
def test_each_rank_has_what_one_process_has(case, epoch, key):
    alone, first, second = (epochs[epoch][key] for epochs in case)
    assert_close(first, alone, **CLOSE)
    assert_close(second, alone, **CLOSE)


@pytest.mark.parametrize("epoch", range(4))
def test_both_ranks_have_the_same_weights_to_the_last_bit(case, epoch):
    _, first, second = (epochs[epoch]["state"] for epochs in case)
    assert_close(first, second, **EXACT)


@pytest.mark.parametrize("epoch", range(4))
def test_scores_are_those_of_one_process(case, epoch):
    alone, first, second = (epochs[epoch]["scores"] for epochs in case)
    assert first == second == pytest.approx(alone, rel=1e-5)  # evidence is float32


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_stays_as_it_was_until_it_is_unfrozen_and_then_changes(case, stage):
    name, epochs_frozen = STAGES[stage], FROZEN_IN_EPOCHS[stage]
    for epochs in case:
        unchanged = [torch.equal(epoch["state"][name], epoch["before"][name]) for epoch in epochs]
        assert unchanged == [True] * epochs_frozen + [False] * (4 - epochs_frozen)


def test_two_ranks_report_once_and_go_on_from_their_checkpoint(runs, tmp_path):
    first, second = (run["on disk"] for run in runs[1:])
    alone = finish_on_disk(str(tmp_path))
    for name in ("features", "mixes"):
        np.testing.assert_allclose(first.pop(name), alone.pop(name), rtol=2e-3, atol=2e-3)  # of half precision
        del second[name]  # the same file
    assert first == {"rank": 0, "finished": [False, True], "reported": [1, 2, 1, 2, 3, 4], "agreement": 1.0}
    assert second == {"rank": 1, "finished": [False, True], "reported": [], "agreement": 1.0}
