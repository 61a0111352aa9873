"""Gradients on two ranks are those of one process on the joined batch, for every registered method."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext, Outputs, StepOutputs
from ray_tl.collectives import rank, world_size
from tests.gloo import run_on_ranks

ROWS = 16


class Network(nn.Module):
    """A linear backbone and a linear head whose predictions are confident in some rows and not in others."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(6, 5)
        self.head = nn.Linear(5, 4)
        nn.init.normal_(self.head.weight, std=2.0)

    def forward(self, inputs, start):
        features = self.backbone(inputs)
        return features, self.head(features)


class AdaptationTask(nn.Module):
    """A network and a method: the sum of its losses. A teacher is a copy of the network, which then moves on."""

    def __init__(self, name):
        super().__init__()
        self.model = Network()
        self.method = METHODS.create(name, {}, MethodContext(5, 4, num_source=ROWS, num_target=ROWS))
        self.method.attach(self.model)
        nn.init.normal_(self.model.backbone.weight)

    def begin_epoch(self):
        """Every rank sees the whole domains, as in a trial."""
        source, labels, target, _ = joined_batch()
        with torch.no_grad():
            whole = {
                "source": DomainOutputs(*self.model(source, 0), labels),
                "target": DomainOutputs(*self.model(target, 0), None),
            }
        self.method.begin_epoch({name: whole[name] for name in self.method.needs_domains}, 0.0)

    def forward(self, source, labels, target, strong, rows):
        inputs = {"source": source, "target": target, "strong": strong}
        views = {name: Outputs(*self.model(inputs[name], 0), inputs[name], rows) for name in self.method.needs}
        losses = self.method.losses(StepOutputs(views, labels, progress=0.3))
        return torch.stack(list(losses.values())).sum()


def joined_batch():
    """Source, its labels, target and the target's strong view."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    target = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64) + 0.5
    labels = torch.randint(4, (ROWS,), generator=generator)
    return source, labels, target, target + 0.5 * torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)


def built(name):
    """The same on every rank."""
    torch.manual_seed(0)
    task = AdaptationTask(name).double()
    task.begin_epoch()
    return task


def gradients(name):
    """Parameter gradients and the loss of this rank, for this rank's share of the joined batch."""
    task = built(name)
    share = slice(rank() * ROWS // world_size(), (rank() + 1) * ROWS // world_size())
    wrapped = DistributedDataParallel(task) if world_size() > 1 else task
    loss = wrapped(*(part[share] for part in (*joined_batch(), torch.arange(ROWS))))
    loss.backward()
    trained = {key: value for key, value in task.named_parameters() if value.requires_grad}
    return {key: parameter.grad for key, parameter in trained.items()}, loss.item()


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


def test_both_ranks_have_confident_rows_and_others_and_not_equally_many():
    _, _, target, _ = joined_batch()
    confident = built("source_only").model(target, 0)[1].softmax(dim=1).amax(dim=1) >= 0.95
    first, second = (int(half.sum()) for half in confident.chunk(2))
    assert 0 < first < ROWS // 2
    assert 0 < second < ROWS // 2
    assert first != second
