"""What trains and how: the same on one rank, on two and on four, and the same whether it was interrupted or not."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, train_trial
from tests.gloo import run_on_ranks
from tests.training.tiny import RULE, Reports, further, skewed_pair, tiny_config, tiny_data

STOPS_AT_2 = {"patience": {"epochs": 1, "min_improvement": 5.0}}  # nothing improves that much
SOME_DECAY = {"optimizer": {"nadam": {"weight_decay": 0.5, "decay_all": False}}, "max_gradient_norm": None}
EMA, SOUP = {"averaging": {"ema": {"decay": 0.8}}}, {"averaging": {"greedy_soup": {"size": 3}}}
PROBE = {"unfreezing": {"probe_then_fine_tune": {"until": 0.3, "rate_after": 0.1}}}
PLATEAU = {"lr_schedule": {"plateau": {"patience": 0, "min_improvement": 5.0}}}
ADDA = {"adda": {"start": 0.3}}  # of three epochs: in the last step of a first epoch of two steps, or of four
HEAD_ALONE = {"freeze_depth": "head_only", "augmentation": "none"}
CASES: dict[str, dict] = {
    "block": {"trained_stages": 1, **EMA, **SOME_DECAY},
    "preset": {"freeze_depth": "last_1", "domain_norm": "separate", "averaging": {"swa": {"start": 0.3}}},
    "probe": {**PROBE, **SOUP, **PLATEAU},
    "stopped": {"early_stopping": STOPS_AT_2},
    "accumulation": {"accumulation": 3, "adaptor": {"bottleneck": {"width": 6, "dropout": 0.3}}},
    "sampling": {"class_balance": {"sampling": {"share": 0.8}}},
    "weights": {"class_balance": "weights", "label_smoothing": 0.1, "mixing": "mixup", "accumulation": 3},
    "weights of rows": {"class_balance": "weights", "method": "importance_weighting"},
    "smote": {"class_balance": {"smote": {"k": 3}}, "mixing": "mixup", **HEAD_ALONE},
    "smote at first": {"class_balance": "smote", "augmentation": "none", **PROBE},
    "smote where domains join": {"class_balance": "smote", "transfer": {"staged": {"share": 0.3}}, **HEAD_ALONE},
    "more steps than a pass": {"min_steps": 11, **HEAD_ALONE},
    "more steps while the head trains": {"min_steps": 11, "augmentation": "none", **PROBE, **EMA},
    "more steps before a new beginning": {"min_steps": 11, "augmentation": "none", **PROBE, "method": ADDA},
    "smote of rows that are matched": {"class_balance": "smote", "method": "kernel_mean_matching", **HEAD_ALONE},
}
HALF: dict[str, dict] = {name: {"precision": name, "optimizer": {"sgd": {"lr": 0.002}}} for name in ("bf16", "fp16")}
INTERRUPTED: dict[str, dict] = {
    **CASES,
    **{f"optimizer {name}": {"optimizer": name} for name in ("adagrad", "radam", "rmsprop")},  # others: test_resume
    "one cycle": {"lr_schedule": "one_cycle"},
    "fp16": {"precision": "fp16"},
}
CLOSE = {"rtol": 1e-6, "atol": 1e-10}
EXACT = {"rtol": 0, "atol": 0}


def config_of(changes):
    """Three epochs of two steps, with a discriminator and alignment beside the task."""
    return tiny_config(**{"method": "dann", "batch_size": 12, "epochs": 3, "augmentation": "affine", **changes})


def data():
    """Of classes that are not equally frequent."""
    return tiny_data(further(skewed_pair(14, 7, 3)))


def train_all(cases: dict[str, dict]) -> dict[str, dict]:
    """In float64, but for what autocast is to lower: that leaves float64 alone."""
    torch.set_default_dtype(torch.float64)
    try:
        found = {name: train(changes) for name, changes in cases.items()}
    finally:
        torch.set_default_dtype(torch.float32)
    return {**found, **{name: train(changes) for name, changes in HALF.items()}}


def train(changes: dict) -> dict:
    """What a trial reports, and what its checkpoint holds at its end."""
    run, reports = TrialRun(config_of(changes), data(), RULE), []
    start = {name: value.detach().clone() for name, value in run.task.model.named_parameters()}
    while not reports or reports[-1].epoch < run.config.epochs:
        reports.append(run.epoch(len(reports)))
    return {
        "epochs": [report.epoch for report in reports],
        "losses": [report.losses for report in reports],
        "rates": [report.lr for report in reports],
        "task": dict(run.state(reports[-1])["task"]),
        "moved": {name: value.detach() - start[name] for name, value in run.task.model.named_parameters()},
    }


@pytest.fixture(scope="module")
def alone():
    return train_all(CASES)


@pytest.fixture(scope="module", params=[2, 4])
def on_ranks(request):
    return run_on_ranks(train_all, request.param, CASES)


@pytest.mark.parametrize("case", CASES)
def test_every_rank_has_what_one_process_has(alone, on_ranks, case):
    for rank in on_ranks:
        assert_close(rank[case], alone[case], **CLOSE)


def test_in_bf16_every_rank_moves_as_one_process_does(alone, on_ranks):
    # Sums over other rows are rounded otherwise: 8 bits are 0.4 %.
    expected = torch.cat([each.flatten() for each in alone["bf16"]["moved"].values()])
    for rank in on_ranks:
        found = torch.cat([each.flatten() for each in rank["bf16"]["moved"].values()])
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_in_fp16_all_ranks_skip_the_same_steps(on_ranks):
    # How many overflow depends on the rows of a rank: the scale of the loss begins high. No rank goes on alone.
    for rank in on_ranks[1:]:
        assert_close(rank["fp16"], on_ranks[0]["fp16"], **EXACT)
    assert any(each.any() for each in on_ranks[0]["fp16"]["moved"].values())


def finished(changes, files, stop_at=None):
    """A fresh process, as far as a trial can tell."""
    reports = Reports(stop_at)
    train_trial(config_of(changes), data(), reports, files, RULE)
    return [replace(report, seconds=0.0) for report in reports]


@pytest.mark.parametrize("case", INTERRUPTED)
def test_an_interrupted_trial_ends_where_an_uninterrupted_one_ends(case, tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    expected = finished(INTERRUPTED[case], whole)
    before, after = finished(INTERRUPTED[case], parts, stop_at=1), finished(INTERRUPTED[case], parts)
    assert [*before, *after[1:]] == expected
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], **EXACT)
