"""Choices of how to fine-tune that see positions, on texts: the same on one rank and on two, padded otherwise."""

import pytest
import torch
from torch.testing import assert_close

from ray_tl.training.run import TrialRun
from tests.conformance.choices import CHOICES
from tests.conformance.test_on_ranks import trained
from tests.gloo import run_on_ranks
from tests.training.tiny import RULE
from tests.training.tiny_text import tiny_text_config, tiny_text_data, tiny_text_pair

NAMES = ("regulariser delta_bss", "masking project", "tuning by lora with dropout", "tuning bottleneck_adapter")
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def train_all(choices: dict[str, dict]) -> dict[str, dict]:
    torch.set_default_dtype(torch.float64)
    try:
        return {name: train(changes) for name, changes in choices.items()}
    finally:
        torch.set_default_dtype(torch.float32)


def train(changes: dict) -> dict:
    """Losses and state after two epochs of one step."""
    config = tiny_text_config(batch_size=24, epochs=2, optimizer={"sgd": {"lr": 0.05}}, freeze_depth=1, **changes)
    run = TrialRun(config, tiny_text_data(tiny_text_pair(num_labelled=6)), RULE)
    losses = [trained(run, epoch)[0] for epoch in range(2)]
    return {"losses": losses, "state": dict(run.task.state_dict())}


@pytest.fixture(scope="module")
def runs():
    chosen = {name: CHOICES[name] for name in NAMES}
    return train_all(chosen), *run_on_ranks(train_all, 2, chosen)


@pytest.mark.parametrize("choice", NAMES)
def test_two_ranks_have_what_one_process_has(runs, choice):
    alone, first, second = (run[choice] for run in runs)
    assert_close(first, alone, **CLOSE)
    assert_close(second, alone, **CLOSE)
