import pytest
import torch
from torch import nn

from ray_tl.config import Component
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.memory import StepMemory, free_bytes, step_memory
from ray_tl.models.transfer_model import build_transfer_model

FLOAT = 4


def test_a_network_of_two_layers_keeps_its_inputs_and_hidden_rows():
    """By hand: a linear layer keeps its input, ReLU its output, which is the next layer's input."""
    network = nn.Sequential(nn.Linear(10, 20, bias=False), nn.ReLU(), nn.Linear(20, 5, bias=False))
    found = step_memory(network, torch.zeros(8, 10))
    assert found.activations == FLOAT * (8 * 10 + 8 * 20)
    assert found.weights == FLOAT * (10 * 20 + 20 * 5)
    assert found.optimizer == 3 * found.weights


def test_what_is_frozen_is_held_but_keeps_nothing_for_a_backward_pass():
    network = nn.Sequential(nn.Linear(10, 20, bias=False), nn.ReLU(), nn.Linear(20, 5, bias=False))
    network[0].requires_grad_(False)
    found = step_memory(network, torch.zeros(8, 10))
    assert found.activations == FLOAT * 8 * 20
    assert found.optimizer == 3 * FLOAT * 20 * 5


@pytest.mark.parametrize("depth", [0, 2, 3])
def test_shapes_alone_give_what_a_real_step_keeps(depth):
    found = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            network = build_transfer_model(Component(name="tiny_cnn"), 3, BackboneContext()).train()
            network.backbone.freeze(depth)
            found.append(step_memory(network, torch.zeros(6, 3, 16, 16)))
    assert found[0] == found[1]


def test_activations_grow_with_the_batch_and_weights_do_not():
    with torch.device("meta"):
        network = build_transfer_model(Component(name="resnet18", params={"weights": "none"}), 3, BackboneContext())
        small, large = (step_memory(network.train(), torch.zeros(n, 3, 64, 64)) for n in (8, 64))
    assert large.activations == pytest.approx(8 * small.activations, rel=0.01)
    assert large.weights == small.weights


def test_the_estimate_is_written_for_people():
    assert str(StepMemory(2**30, 3 * 2**30, 2**32)) == "8.0 GiB (weights 1.0, optimiser 3.0, activations 4.0)"


def test_this_machine_has_memory_left():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50
