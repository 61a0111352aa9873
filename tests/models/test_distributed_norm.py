"""Two ranks must give what one process gives on the joined batch: outputs, gradients and running statistics."""

from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.models.distributed_norm import DistributedBatchNorm, convert_batch_norm
from tests.gloo import run_on_ranks
from tests.models.norm_on_ranks import run_all, run_this_rank

NORMS = [
    "vectors", "sequences", "images", "without_affine", "without_tracking", "cumulative_average", "with_activation",
]  # fmt: skip
CASES = [*NORMS, "tiny_cnn", "half_frozen", "efficientnet_lite0"]


@pytest.fixture(scope="module")
def runs():
    """What one process says of each case, and what each of two ranks says."""
    return [run_all(0, 1), *run_on_ranks(run_this_rank, 2)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", ["outputs", "input gradient"])
def test_rows_of_both_ranks_equal_the_joined_batch(runs, case, key):
    joined, first, second = (run[case][key] for run in runs)
    assert_close(torch.cat([first, second]), joined, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_parameter_gradients_of_both_ranks_add_up_to_the_joined_ones(runs, case):
    joined, first, second = (gradients(run[case]) for run in runs)
    summed = {key: value + second[key] for key, value in first.items()}
    assert_close(summed, joined, rtol=1e-9, atol=1e-9)


def gradients(results):
    return {key: value for key, value in results.items() if key.startswith("gradient")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rank", [0, 1])
def test_state_is_the_same_on_each_rank_and_in_one_process(runs, case, rank):
    joined, here = state(runs[0][case]), state(runs[1 + rank][case])
    assert_close(here, joined, rtol=1e-9, atol=1e-9)


def state(results):
    return {key: value for key, value in results.items() if key.startswith("state")}


@pytest.mark.parametrize("rank", [0, 1])
def test_ddp_gradients_equal_those_of_one_process(runs, rank):
    assert_close(runs[1 + rank]["ddp"], runs[0]["ddp"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("training", [False, True])
def test_on_one_rank_it_is_ordinary_batch_normalisation(build, training):
    ordinary = build(3).train(training)
    converted = convert_batch_norm(deepcopy(ordinary))
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(converted(x), ordinary(x))
    assert_close(converted.state_dict(), ordinary.state_dict(), rtol=0, atol=0)


def test_checkpoints_fit_in_both_directions():
    ordinary = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), nn.BatchNorm2d(4))
    converted = convert_batch_norm(deepcopy(ordinary))
    assert list(converted.state_dict()) == list(ordinary.state_dict())
    ordinary.load_state_dict(converted.state_dict())


def test_conversion_keeps_parameters_modes_and_frozenness():
    network = nn.Sequential(nn.BatchNorm2d(4).eval().requires_grad_(False), nn.BatchNorm2d(4))
    before = list(network.parameters())
    convert_batch_norm(network)
    assert all(a is b for a, b in zip(before, network.parameters(), strict=True))
    assert [norm.training for norm in network] == [False, True]
    assert [norm.weight.requires_grad for norm in network] == [False, True]


def test_converting_twice_is_converting_once():
    norm = convert_batch_norm(nn.BatchNorm2d(4))
    assert isinstance(norm, DistributedBatchNorm)
    assert convert_batch_norm(norm) is norm


def test_an_unknown_variant_is_refused():
    class Ghost(nn.BatchNorm2d):
        pass

    with pytest.raises(InvalidInput, match="Ghost can't be spread over workers"):
        convert_batch_norm(nn.Sequential(Ghost(3)))
