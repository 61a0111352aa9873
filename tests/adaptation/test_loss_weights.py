import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from ray_tl.adaptation.loss_weights import LOSS_WEIGHTS, Uncertainty
from ray_tl.adaptation.method import LOSS_NAMES
from ray_tl.collectives import rank, world_size
from ray_tl.errors import InvalidInput
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from tests.gloo import run_on_ranks
from tests.numeric import numeric_gradient
from tests.training.tiny import RULE, Reports, tiny_config, tiny_data

SCHEDULES = sorted(set(LOSS_WEIGHTS.names()) - {"adaptive", "uncertainty"})
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
    assert set(LOSS_WEIGHTS.names()) >= {"adaptive", "uncertainty"}


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


@pytest.mark.parametrize("name", SCHEDULES)
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
        ("adaptive", {"scale": 0.0}, r"scale=0.0 must be a finite number above 0; 0.2 is usual"),
        ("adaptive", {"scale": math.nan}, r"scale=nan must be a finite number above 0"),
        ("adaptive", {"task_fall_from": 1.1}, r"task_fall_from=1.1 must lie in 0..1"),
        ("adaptive", {"task_floor": -0.1}, r"task_floor=-0.1 must lie in 0..1"),
        ("uncertainty", {"largest_weight": 1.0}, r"uncertainty.largest_weight=1.0 must be a finite number above 1; 10"),
        ("uncertainty", {"largest_weight": math.inf}, r"uncertainty.largest_weight=inf must be a finite number"),
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


@pytest.mark.parametrize(
    ("gap", "expected"), [(-0.3, 0.0), (0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.2, 2.0), (0.9, 2.0)]
)
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_adaptive_domain_weight_follows_the_gap_up_to_its_peak(gap, expected, progress):
    weights = LOSS_WEIGHTS.create("adaptive", {"domain": 2.0, "scale": 0.2}).weights(progress, ["domain"], gap)
    assert weights["domain"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fall_from", "floor", "progress", "expected"),
    [
        (0.6, 0.2, 0.0, 1.0),
        (0.6, 0.2, 0.6, 1.0),
        (0.6, 0.2, 0.8, 0.6),
        (0.6, 0.2, 1.0, 0.2),
        (0.0, 0.0, 0.25, 0.75),
        (1.0, 0.2, 1.0, 1.0),
    ],
)
@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_adaptive_task_weight_falls_late_along_a_line(fall_from, floor, progress, expected, gap):
    weighting = LOSS_WEIGHTS.create("adaptive", {"task_fall_from": fall_from, "task_floor": floor})
    assert weighting.weights(progress, ["task"], gap)["task"] == pytest.approx(expected)


def test_adaptive_combines_with_the_weights_of_the_gap_it_is_given():
    losses = {"task": torch.tensor(3.0, requires_grad=True), "domain": torch.tensor(5.0, requires_grad=True)}
    total, weights = LOSS_WEIGHTS.create("adaptive", {"scale": 0.5}).combine(losses, progress=0.5, gap=0.125)
    total.backward()
    assert weights == {"task": 1.0, "domain": 0.25}
    assert total.item() == 3 + 0.25 * 5
    assert_close(losses["domain"].grad, torch.tensor(0.25), rtol=0, atol=0)


def uncertain(log_variances, **params):
    weighting = Uncertainty(**params).double()
    weighting.log_variances.data = torch.tensor(log_variances, dtype=torch.float64)
    return weighting


def kendall(losses, log_variances):
    return sum(math.exp(-s) * loss + s for loss, s in zip(losses, log_variances, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, 3), min_size=1))
def test_uncertainty_and_its_gradients_are_those_of_the_papers_formula(seed, present):
    random = np.random.default_rng(seed)
    values, log_variances = random.uniform(0.1, 3, 4), random.uniform(-1, 1, 4)
    weighting, chosen = uncertain(log_variances), sorted(present)
    losses = {LOSS_NAMES[i]: torch.tensor(values[i], requires_grad=True) for i in chosen}
    total, weights = weighting.combine(losses, 0.5, 0.0)
    total.backward()
    assert total.item() == pytest.approx(kendall(values[chosen], log_variances[chosen]), rel=1e-12)
    slope = numeric_gradient(lambda s: kendall(values[chosen], s[chosen]), log_variances)
    np.testing.assert_allclose(weighting.log_variances.grad.numpy(), slope, rtol=1e-6, atol=1e-9)
    assert {name: loss.grad.item() for name, loss in losses.items()} == weights


def test_uncertainty_starts_with_equal_weights():
    assert Uncertainty().weights(0.0, LOSS_NAMES) == dict.fromkeys(LOSS_NAMES, 1.0)


def learn(weighting, value, steps=400):
    """Fit the weight of one loss that stays as it is."""
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        total, weights = weighting.combine({"domain": torch.tensor(value, dtype=torch.float64)}, 0.5, 0.0)
        total.backward()
        optimizer.step()
    return weights["domain"]


@pytest.mark.parametrize("value", [0.25, 1.0, 4.0])
def test_uncertainty_learns_the_inverse_of_the_loss(value):
    assert learn(Uncertainty().double(), value) == pytest.approx(1 / value, rel=1e-6)


@pytest.mark.parametrize("value", [-2.0, -1e4, 0.0, 1e-9])
def test_a_loss_at_or_below_zero_gets_the_largest_weight_and_no_more(value):
    assert learn(Uncertainty(largest_weight=5.0).double(), value) == pytest.approx(5.0)


def test_a_loss_is_multiplied_by_the_bound_where_an_optimiser_went_beyond_it():
    loss = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    total, weights = uncertain([0.0, -7.0, 0.0, 0.0], largest_weight=5.0).combine({"domain": loss}, 0.5, 0.0)
    total.backward()
    assert weights["domain"] == loss.grad.item() == pytest.approx(5.0)


def test_a_weight_at_its_bound_comes_back_when_the_loss_turns_positive():
    weighting = Uncertainty(largest_weight=5.0).double()
    learn(weighting, -2.0)
    assert learn(weighting, 0.5) == pytest.approx(2.0, rel=1e-6)


def test_a_huge_loss_gets_the_smallest_weight():
    assert learn(Uncertainty(largest_weight=5.0).double(), 1e4) == pytest.approx(0.2)


class WeighedModel(nn.Module):
    """Two losses of a linear map, and the weights that they learn."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.loss_weights = Uncertainty()
        self.loss_weights.log_variances.data = torch.tensor([0.5, 0.1, -0.2, -0.7])

    def forward(self, rows):
        outputs = self.linear(rows)
        losses = {"task": outputs.square().mean(), "reconstruction": outputs.abs().mean()}
        return self.loss_weights.combine(losses, 0.5, 0.0)[0]


def gradients_of_learned_weights():
    torch.manual_seed(0)
    model, rows = WeighedModel().double(), torch.randn(8, 3, dtype=torch.float64)
    wrapped = DistributedDataParallel(model) if world_size() > 1 else model
    for _ in range(2):  # a second pass fails where the first left a parameter without gradient
        model.zero_grad()
        wrapped(rows.chunk(world_size())[rank()]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_learned_weights_on_two_ranks_get_the_gradients_of_the_joined_batch():
    expected = gradients_of_learned_weights()
    for found in run_on_ranks(gradients_of_learned_weights, 2):
        assert_close(found, expected, rtol=1e-6, atol=1e-12)
    domain, consistency = expected["loss_weights.log_variances"][1:3]
    assert domain == consistency == 0


def run_trial(files, stop_at=None):
    config, reports = tiny_config(method="dann", loss_weighting="uncertainty"), Reports(stop_at)
    train_trial(config, tiny_data(), reports, files, RULE)
    return [replace(report, seconds=0.0) for report in reports]


def test_a_trial_with_learned_weights_resumes_bit_for_bit(tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    expected = run_trial(whole)
    before, after = run_trial(parts, stop_at=2), run_trial(parts)
    assert after[:2] == before
    assert after == expected
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], rtol=0, atol=0)


def test_a_trial_learns_the_weights_that_it_records(tmp_path):
    files = TrialFiles(tmp_path, 0)
    reports = run_trial(files)
    learned = files.load_checkpoint()["task"]["loss_weights.log_variances"]
    assert (learned[:2] != 0).all()
    assert reports[-1].weights != {"task": 1.0, "domain": 1.0}
    assert_close(learned[2:], torch.zeros(2), rtol=0, atol=0)
