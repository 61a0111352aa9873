"""Gradients on two ranks are those of one process on the joined batch, for every registered method."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, MethodContext, Outputs, StepOutputs
from ray_tl.collectives import rank, world_size
from tests.gloo import run_on_ranks

ROWS = 16


class AdaptationTask(nn.Module):
    """A linear backbone, a linear head and a method: the sum of its losses."""

    def __init__(self, name):
        super().__init__()
        self.backbone = nn.Linear(6, 5)
        self.head = nn.Linear(5, 4)
        self.method = METHODS.create(name, {}, MethodContext(feature_dim=5, num_classes=4))

    def forward(self, source, labels, target):
        views = {"source": self.outputs(source), "target": self.outputs(target)}
        losses = self.method.losses(StepOutputs(views, labels, progress=0.3))
        return torch.stack(list(losses.values())).sum()

    def outputs(self, inputs):
        features = self.backbone(inputs)
        return Outputs(features, self.head(features))


def joined_batch():
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    target = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64) + 0.5
    return source, torch.randint(4, (ROWS,), generator=generator), target


def gradients(name):
    """Parameter gradients and the loss of this rank, for this rank's share of the joined batch."""
    torch.manual_seed(0)
    task = AdaptationTask(name).double()
    share = slice(rank() * ROWS // world_size(), (rank() + 1) * ROWS // world_size())
    wrapped = DistributedDataParallel(task) if world_size() > 1 else task
    loss = wrapped(*(part[share] for part in joined_batch()))
    loss.backward()
    return {key: parameter.grad for key, parameter in task.named_parameters()}, loss.item()


def gradients_of_all_methods(names):
    return {name: gradients(name) for name in names}


@pytest.fixture(scope="module")
def on_two_ranks():
    return run_on_ranks(gradients_of_all_methods, 2, METHODS.names())


@pytest.mark.parametrize("name", METHODS.names())
def test_gradients_on_two_ranks_are_those_of_the_joined_batch(on_two_ranks, name):
    expected, _ = gradients(name)
    assert_close(on_two_ranks[0][name][0], expected, rtol=1e-6, atol=1e-12)
    assert_close(on_two_ranks[1][name][0], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", METHODS.names())
def test_mean_of_the_losses_of_two_ranks_is_that_of_the_joined_batch(on_two_ranks, name):
    _, expected = gradients(name)
    mean = (on_two_ranks[0][name][1] + on_two_ranks[1][name][1]) / 2
    assert mean == pytest.approx(expected, rel=1e-9)
