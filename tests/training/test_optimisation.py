"""Learning rates are pure functions of progress, and real rates in every group."""

import math

import pytest

from ray_tl.errors import InvalidInput
from ray_tl.training.loop import TrialRun
from ray_tl.training.optimisation import LR_SCHEDULES, OPTIMIZERS
from tests.training.tiny import RULE, tiny_config, tiny_data

FIRST = 0.001 / 0.101  # of a warm-up over a tenth: its first step is not quite 0
MULTIPLIERS = {"per_stage": {"multipliers": [0.1, 0.5, 1.0], "head": 10.0}}


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("constant", 0.0, FIRST), ("constant", 0.05, 0.051 / 0.101), ("constant", 0.1, 1.0), ("constant", 1.0, 1.0),
        ("cosine", 0.0, FIRST), ("cosine", 0.1, 1.0), ("cosine", 0.55, 0.5), ("cosine", 1.0, 0.0),
        ("cosine", 0.4, (1 + math.cos(math.pi / 3)) / 2),
        ("linear", 0.0, FIRST), ("linear", 0.1, 1.0), ("linear", 0.55, 0.5), ("linear", 1.0, 0.0),
    ],
)  # fmt: skip
def test_schedule_with_a_warmup_over_a_tenth(name, progress, expected):
    assert LR_SCHEDULES.create(name, {"warmup": 0.1})(progress) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 1.0), (0.5, 6**-0.75), (1.0, 11**-0.75)])
def test_inverse_decay_is_that_of_dann(progress, expected):
    assert LR_SCHEDULES.create("inverse_decay", {})(progress) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear"])
def test_without_a_warmup_the_first_step_has_the_full_rate(name):
    assert LR_SCHEDULES.create(name, {"warmup": 0.0})(0.0) == 1.0


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warmup_that_is_no_share_is_refused(warmup):
    with pytest.raises(InvalidInput, match=r"lr_schedule\.warmup=.* must be in \[0, 1\)"):
        LR_SCHEDULES.create("cosine", {"warmup": warmup})


@pytest.mark.parametrize("name", OPTIMIZERS.names())
@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan])
def test_a_learning_rate_not_above_0_is_refused(name, lr):
    with pytest.raises(InvalidInput, match=r"optimizer\.lr=.* must be above 0"):
        OPTIMIZERS.create(name, {"lr": lr})


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_rates_in_the_groups_are_the_scheduled_rate_times_the_multipliers(optimizer):
    # One step an epoch, the first at progress 0 without warm-up: the schedule's factor is 1.
    rates = rates_after_an_epoch(optimizer={optimizer: {"lr": 0.01}}, lr_schedule="inverse_decay")
    assert rates == pytest.approx({"conv1": 0.001, "conv2": 0.005, "pool": 0.01, "head": 0.1, "method": 0.01})


def test_rates_follow_the_schedule_within_an_epoch():
    # Three steps an epoch, two epochs: the last one of the first is at progress 1/3.
    rates = rates_after_an_epoch(lr_schedule={"linear": {"warmup": 0.0}}, batch_size=8, epochs=2)
    assert rates["head"] == pytest.approx(1e-3 * 10 * 2 / 3)


def rates_after_an_epoch(**changes):
    config = tiny_config(**{"method": "dann", "lr_multipliers": MULTIPLIERS, "batch_size": 24, **changes})
    run = TrialRun(config, tiny_data(), RULE)
    groups = run.state(run.epoch(0))["optimizer"]["param_groups"]
    return {group["name"]: group["lr"] for group in groups}


@pytest.mark.parametrize("method", ["source_only", "dann"])
def test_reported_rate_is_the_base_rate_whatever_the_multipliers(method):
    config = tiny_config(
        method=method, lr_multipliers=MULTIPLIERS, optimizer={"sgd": {"lr": 0.01}}, lr_schedule="constant"
    )
    assert TrialRun(config, tiny_data(), RULE).epoch(0).lr == pytest.approx(0.01)
