"""Micro-batches and half precision."""

import math

import pytest
import torch
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.training.batches import PairedBatches
from ray_tl.training.loop import TrialRun
from ray_tl.training.precision import Precision
from tests.training.tiny import RULE, tiny_config, tiny_data

HEAD_ALONE = {"freeze_depth": "head_only", "augmentation": "affine", "optimizer": {"sgd": {"lr": 0.1}}}


def trained(**changes):
    run = TrialRun(tiny_config(**{"epochs": 2, **changes}), tiny_data(), RULE)
    reports = [run.epoch(epoch) for epoch in range(2)]
    return run, reports


@pytest.mark.parametrize("changes", [{}, {"mixing": "mixup"}, {"gradient_masking": "project"}])
@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_batches_without_trained_batch_norm_are_the_big_batch(accumulation, changes):
    whole, expected = trained(**HEAD_ALONE, **changes)
    parted, found = trained(**HEAD_ALONE, **changes, accumulation=accumulation)
    assert_close(parted.task.state_dict(), whole.task.state_dict(), rtol=1e-5, atol=1e-7)
    assert [report.losses["task"] for report in found] == pytest.approx([each.losses["task"] for each in expected])


def test_what_sees_less_than_the_batch_is_said():
    _, reports = trained(method="coral", accumulation=2)
    assert "see 4 examples at a time instead of 8" in reports[0].findings[0]


@pytest.mark.parametrize("world_size", [1, 2])
def test_micro_batches_are_the_rows_of_the_step_in_order(world_size):
    ranks = [PairedBatches(24, 30, 12, rank, world_size, seed=1, accumulation=3) for rank in range(world_size)]
    whole = [step.source_rows.tolist() for step in PairedBatches(24, 30, 12, 0, 1, seed=1).epoch(0)]
    for number, parts in enumerate(zip(*(batches.steps(0) for batches in ranks), strict=True)):
        micro = [torch.cat([part.source_rows for part in joint]).tolist() for joint in zip(*parts, strict=True)]
        assert [row for rows in micro for row in rows] == whole[number]
        assert [len(rows) for rows in micro] == [4, 4, 4]


def test_a_micro_batch_of_one_is_refused():
    with pytest.raises(InvalidInput, match=r"accumulation=5 leaves a micro-batch less than 2 of batch_size=8 examples"):
        TrialRun(tiny_config(accumulation=5), tiny_data(), RULE)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_network_trains_in_half_precision_and_the_losses_in_full(precision, dtype):
    run = TrialRun(tiny_config(method="dann", precision=precision, augmentation="affine"), tiny_data(), RULE)
    training, evaluating, losses = set(), set(), set()
    run.task.model.head.register_forward_hook(
        lambda module, inputs, output: (training if module.training else evaluating).add(output.dtype)
    )
    run.task.method.discriminator.register_forward_hook(lambda module, inputs, output: losses.add(output.dtype))
    report = run.epoch(0)
    assert (training, evaluating, losses) == ({dtype}, {torch.float32}, {torch.float32})
    assert all(math.isfinite(value) for value in report.losses.values())
    assert {value.dtype for value in run.task.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close_to_full(precision):
    (full, _), (half, _) = trained(method="coral"), trained(method="coral", precision=precision)
    assert_close(half.task.state_dict(), full.task.state_dict(), rtol=0.1, atol=0.02)


def test_an_overflow_in_float16_costs_the_step_and_halves_the_scale():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, precision = torch.optim.SGD([weight], lr=1.0), Precision("fp16", torch.device("cpu"))
    scale = precision.state()["scale"]
    stepped = []
    for gradient in (math.inf, 2.0):
        weight.grad = (gradient * precision.scale()).reshape(1)
        precision.unscale(optimizer)
        stepped.append(precision.step(optimizer))
    assert stepped == [False, True]
    assert weight.item() == 1.0 - 2.0
    assert precision.state()["scale"] == scale / 2
