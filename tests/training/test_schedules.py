"""Schedules against those of torch, and optimisers against torch's own steps."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.training.loop import TrialRun
from ray_tl.training.optimisation import LR_SCHEDULES, OPTIMIZERS
from tests.training.tiny import RULE, tiny_config, tiny_data

STEPS = 40
SCORES = [0.5, 0.6, 0.6, 0.6, 0.7, 0.7, 0.69, 0.70005, 0.7, 0.7, 0.8, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1]


def torch_factors(kind, steps=STEPS, **parameters):
    """The share of the full rate at each step, by a scheduler of torch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = kind(optimizer, **parameters)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "params", "kind", "parameters"),
    [
        ("cosine", {"warmup": 0.0}, lr_scheduler.CosineAnnealingLR, {"T_max": STEPS}),
        (
            "linear",
            {"warmup": 0.0},
            lr_scheduler.LinearLR,
            {"start_factor": 1.0, "end_factor": 0.0, "total_iters": STEPS},
        ),
        ("step", {"every": 0.3, "gamma": 0.5}, lr_scheduler.StepLR, {"step_size": 12, "gamma": 0.5}),
        ("step", {"every": 0.1, "gamma": 0.5}, lr_scheduler.StepLR, {"step_size": 4, "gamma": 0.5}),
        ("exponential", {"last": 0.01}, lr_scheduler.ExponentialLR, {"gamma": 0.01 ** (1 / STEPS)}),
        ("constant", {}, lr_scheduler.ConstantLR, {"factor": 1.0}),
        ("inverse_decay", {}, lr_scheduler.LambdaLR, {"lr_lambda": lambda step: (1 + 10 * step / STEPS) ** -0.75}),
    ],
)
def test_schedule_is_that_of_torch_at_every_step(name, params, kind, parameters):
    schedule = LR_SCHEDULES.create(name, params)
    assert [schedule(index / STEPS) for index in range(STEPS)] == pytest.approx(torch_factors(kind, **parameters))


def test_one_cycle_is_that_of_torch_at_every_step():
    # Torch's last step is at the end of the cycle, and its highest one step before the share pct_start.
    steps = STEPS + 1
    expected = torch_factors(lr_scheduler.OneCycleLR, steps - 1, max_lr=1.0, total_steps=steps, pct_start=11 / steps)
    schedule = LR_SCHEDULES.create("one_cycle", {"warmup": 10 / STEPS})
    assert [schedule(index / STEPS) for index in range(STEPS)] == pytest.approx(expected)
    assert schedule(1.0) == pytest.approx(4e-6)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_is_that_of_torch_after_every_score(patience):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=0.3, patience=patience, threshold=1e-4, threshold_mode="abs", eps=0.0
    )
    schedule = LR_SCHEDULES.create("plateau", {"factor": 0.3, "patience": patience})
    for seen, score in enumerate(SCORES, start=1):
        reference.step(score)
        assert schedule(0.5, SCORES[:seen]) == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("name", sorted(set(LR_SCHEDULES.names()) - {"one_cycle"}))
def test_every_schedule_can_warm_up(name):
    schedule = LR_SCHEDULES.create(name, {"warmup": 0.2})
    rising = [schedule(index / 100) for index in range(21)]
    assert rising == sorted(rising)
    assert rising[0] < 0.01
    assert rising[-1] == 1.0


@pytest.mark.parametrize("name", LR_SCHEDULES.names())
def test_every_schedule_trains_from_the_first_step_to_the_last(name):
    schedule = LR_SCHEDULES.create(name, {})
    assert all(0 < schedule(index / 100, SCORES) <= 1 for index in range(100))


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("step", {"every": 0.0}, r"step\.every=0\.0 is out of range"),
        ("step", {"gamma": 2.0}, r"step\.gamma=2\.0 is out of range"),
        ("exponential", {"last": 0.0}, r"exponential\.last=0\.0 is out of range"),
        ("one_cycle", {"warmup": 0.0}, r"one_cycle\.warmup=0\.0 must be above 0"),
        ("plateau", {"patience": -1}, r"plateau\.patience=-1 must be 0 or more"),
        ("plateau", {"factor": 1.5}, r"plateau\.factor=1\.5 is out of range"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(name, params, said):
    with pytest.raises(InvalidInput, match=said):
        LR_SCHEDULES.create(name, params)


@pytest.mark.parametrize(
    ("name", "kind", "parameters"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("nadam", torch.optim.NAdam, {"decoupled_weight_decay": True}),
        ("radam", torch.optim.RAdam, {"decoupled_weight_decay": True}),
        ("adamax", torch.optim.Adamax, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
        ("adagrad", torch.optim.Adagrad, {}),
    ],
)
def test_optimiser_steps_as_that_of_torch(name, kind, parameters):
    mine, theirs = (nn.Parameter(torch.tensor([[1.0, -2.0]])) for _ in range(2))
    choice = OPTIMIZERS.create(name, {"lr": 0.01, "weight_decay": 0.1})
    ours = choice.build(choice.groups([{"params": [mine], "lr": 0.01, "name": "head"}]))
    reference = kind([theirs], lr=0.01, weight_decay=0.1, **parameters)
    for step in range(3):
        for value, optimizer in ((mine, ours), (theirs, reference)):
            value.grad = torch.tensor([[0.3, -0.1 * step]])
            optimizer.step()
    assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_scales_shifts_and_biases_need_not_decay(name):
    matrix, vector = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(2))
    choice = OPTIMIZERS.create(name, {"weight_decay": 0.5, "decay_all": False})
    optimizer = choice.build(choice.groups([{"params": [matrix, vector], "lr": choice.lr, "name": "head"}]))
    matrix.grad, vector.grad = torch.zeros(1, 2), torch.zeros(2)
    optimizer.step()
    assert (matrix < 1).all()
    assert (vector == 1).all()


def test_what_does_not_decay_learns_at_the_rate_of_its_layer():
    optimizer = {"adamw": {"lr": 0.01, "decay_all": False}}
    config = tiny_config(optimizer=optimizer, lr_multipliers={"uniform": {"head": 10.0}}, lr_schedule="constant")
    run = TrialRun(config, tiny_data(), RULE)
    groups = {group["name"]: group["lr"] for group in run.state(run.epoch(0))["optimizer"]["param_groups"]}
    assert groups["head"] == groups["head (no decay)"] == pytest.approx(0.1)
    assert groups["conv1"] == groups["conv1 (no decay)"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("name", "params"),
    [("sgd", {"momentum": -1.0}), ("adamw", {"weight_decay": -1.0}), ("rmsprop", {"momentum": -0.1})],
)
def test_what_torch_refuses_is_refused_before_anything_runs(name, params):
    with pytest.raises(InvalidInput, match=r"optimizer: Invalid (momentum|weight_decay) value"):
        OPTIMIZERS.create(name, params)


def gradient_norm(limit):
    """Of all gradients together, as the last step of an epoch had them."""
    config = tiny_config(max_gradient_norm=limit, optimizer={"sgd": {"lr": 1e-9}})
    run = TrialRun(config, tiny_data(), RULE)
    run.epoch(0)
    return torch.stack([value.grad.norm() for value in run.task.parameters()]).norm().item()


def test_gradients_are_scaled_down_to_the_limit_and_no_further():
    free = gradient_norm(None)
    assert gradient_norm(free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert gradient_norm(free * 10) == pytest.approx(free, rel=1e-6)
