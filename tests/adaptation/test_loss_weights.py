import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.adaptation.loss_weights import LOSS_WEIGHTS
from ray_tl.errors import InvalidInput

BOUNDS = [
    (name, parameter.name, bound)
    for name in LOSS_WEIGHTS.names()
    for parameter in LOSS_WEIGHTS.parameters(name).values()
    for bound in next(iter(parameter.range.values()))
]


def domain_weight(name, progress, **params):
    return LOSS_WEIGHTS.create(name, params).weights(progress, ["domain"])["domain"]


def test_every_strategy_is_registered():
    assert set(LOSS_WEIGHTS.names()) >= {"constant", "linear", "cosine", "dann", "step", "delayed"}


@pytest.mark.parametrize(
    ("name", "params", "progress", "expected"),
    [
        ("constant", {}, 0.0, 1.0),
        ("constant", {}, 1.0, 1.0),
        ("linear", {}, 0.0, 0.0),
        ("linear", {}, 0.25, 0.25),
        ("linear", {}, 1.0, 1.0),
        ("cosine", {}, 0.0, 0.0),
        ("cosine", {}, 1 / 3, 0.25),
        ("cosine", {}, 0.5, 0.5),
        ("cosine", {}, 1.0, 1.0),
        ("dann", {}, 0.0, 0.0),
        ("dann", {"gamma": math.log(3)}, 1.0, 0.5),
        ("dann", {}, math.log(3) / 10, 0.5),
        ("step", {"at": 0.3}, 0.29, 0.0),
        ("step", {"at": 0.3}, 0.3, 1.0),
        ("step", {"at": 0.0}, 0.0, 1.0),
        ("delayed", {"start": 0.2, "ramp": 0.4}, 0.2, 0.0),
        ("delayed", {"start": 0.2, "ramp": 0.4}, 0.3, 0.25),
        ("delayed", {"start": 0.2, "ramp": 0.4}, 0.6, 1.0),
        ("delayed", {"start": 0.2, "ramp": 0.4}, 1.0, 1.0),
    ],
)
def test_share_of_the_peak_is_the_one_worked_out_by_hand(name, params, progress, expected):
    assert domain_weight(name, progress, domain=2.0, **params) == pytest.approx(2 * expected, abs=1e-12)


@pytest.mark.parametrize("name", LOSS_WEIGHTS.names())
@given(st.floats(0, 1), st.floats(0, 1))
def test_weights_rise_with_progress_and_stay_below_the_peak(name, one, other):
    early, late = domain_weight(name, min(one, other)), domain_weight(name, max(one, other))
    assert 0 <= early <= late <= 1


@pytest.mark.parametrize("name", LOSS_WEIGHTS.names())
def test_task_weighs_one_at_every_progress_and_each_loss_has_its_own_peak(name):
    weighting = LOSS_WEIGHTS.create(name, {"domain": 2.0, "consistency": 3.0, "reconstruction": 4.0})
    weights = weighting.weights(1.0, ["task", "domain", "consistency", "reconstruction"])
    assert list(weights) == ["task", "domain", "consistency", "reconstruction"]
    assert weights["task"] == weighting.weights(0.0, ["task"])["task"] == 1
    assert weights["consistency"] / weights["domain"] == pytest.approx(3 / 2)
    assert weights["reconstruction"] / weights["domain"] == pytest.approx(4 / 2)


def test_combine_gives_the_weighted_sum_with_its_gradient_and_the_weights_used():
    losses = {"task": torch.tensor(3.0, requires_grad=True), "domain": torch.tensor(5.0, requires_grad=True)}
    total, weights = LOSS_WEIGHTS.create("linear", {"domain": 2.0}).combine(losses, progress=0.25, gap=0.0)
    total.backward()
    assert weights == {"task": 1.0, "domain": 0.5}
    assert total.item() == 3 + 0.5 * 5
    assert_close(losses["domain"].grad, torch.tensor(0.5), rtol=0, atol=0)


def test_a_loss_of_weight_zero_keeps_its_parameters_in_the_graph():
    losses = {"task": torch.tensor(3.0), "domain": torch.tensor(5.0, requires_grad=True)}
    LOSS_WEIGHTS.create("constant", {"domain": 0.0}).combine(losses, progress=0.5, gap=0.0)[0].backward()
    assert losses["domain"].grad.item() == 0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("constant", {"domain": -1.0}, r"domain=-1.0 must be a finite number of at least 0; give 0 to switch"),
        ("linear", {"consistency": math.inf}, r"consistency=inf must be a finite number of at least 0"),
        ("cosine", {"reconstruction": math.nan}, r"reconstruction=nan must be a finite number of at least 0"),
        ("dann", {"gamma": 0.0}, r"gamma=0.0 must be a finite number above 0; 10 is usual"),
        ("step", {"at": 1.5}, r"at=1.5 must lie in 0..1"),
        ("step", {"at": math.nan}, r"at=nan must lie in 0..1"),
        ("delayed", {"start": -0.1}, r"start=-0.1 must lie in 0..1"),
        ("delayed", {"ramp": 0.0}, r"ramp=0.0 must be above 0; choose the weighting 'step'"),
        ("delayed", {"start": 0.7, "ramp": 0.4}, r"start=0.7 and ramp=0.4 must add up to at most 1"),
    ],
)
def test_a_value_that_breaks_its_rule_is_named_with_the_remedy(name, params, message):
    with pytest.raises(InvalidInput, match=message):
        LOSS_WEIGHTS.create(name, params)


def test_all_broken_rules_come_at_once():
    with pytest.raises(InvalidInput, match=r"(?s)2 problems.*domain=-1.0.*at=2.0"):
        LOSS_WEIGHTS.create("step", {"domain": -1.0, "at": 2.0})


@pytest.mark.parametrize(("name", "parameter", "bound"), BOUNDS)
def test_both_ends_of_a_declared_range_are_allowed(name, parameter, bound):
    assert 0 <= domain_weight(name, 1.0, **{parameter: bound}) <= 10


def test_the_latest_start_and_the_longest_ramp_of_the_declared_ranges_still_reach_the_peak():
    parameters = LOSS_WEIGHTS.parameters("delayed")
    latest, longest = (max(parameters[name].range["uniform"]) for name in ("start", "ramp"))
    assert domain_weight("delayed", 1.0, start=latest, ramp=longest) == 1
