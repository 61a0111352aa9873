"""Mixing in a trial: pairs of the joint batch, soft labels in the task loss, caches where they can be."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.data.mixing import MIXINGS
from ray_tl.planning.checks import configuration_problems
from ray_tl.randomness import generator
from ray_tl.study.records import DataSource
from ray_tl.training.batches import PairedBatches
from ray_tl.training.loop import TrialRun
from tests.training.tiny import RULE, tiny_config, tiny_data

DIGITS = DataSource(source="digits:mnist", target="digits:optdigits")
EXACT = {"rtol": 0, "atol": 0}


def first_views(**changes: object):
    run = TrialRun(tiny_config(**changes), tiny_data(), RULE)
    run._enter_phase(0.0)
    step = next(run._batches.epoch(0))
    return run, step, run._feed.views(step, run.task.method, 0.0, 0, 0)


def test_each_source_example_is_mixed_with_the_one_before_it_as_both_were_augmented():
    _, _, (plain, _, hard, _) = first_views(augmentation="affine")
    run, step, (mixed, rows, soft, _) = first_views(augmentation="affine", mixing="mixup")
    draws = torch.rand(step.total, 1, generator=generator(run.config.seed, "mixing", 0, 0))
    expected, shares = MIXINGS.create("mixup", {}).mix(plain["source"], plain["source"].roll(1, 0), draws)
    assert_close(mixed["source"], expected, **EXACT)
    assert_close(rows["source"], step.source_rows, **EXACT)
    assert_close(soft[torch.arange(8), hard] >= shares - 1e-6, torch.ones(8, dtype=torch.bool))
    assert_close(soft.sum(dim=1), torch.ones(8))


def test_the_target_stays_unmixed():
    plain, mixed = (first_views(method="coral", mixing=mixing)[2][0] for mixing in ("none", "cutmix"))
    assert_close(mixed["target"], plain["target"], **EXACT)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_row_before_a_ranks_first_is_the_last_of_the_rank_before(world_size):
    steps = [next(PairedBatches(24, 30, 8, rank, world_size, seed=3).epoch(0)) for rank in range(world_size)]
    joint = torch.cat([step.source_rows for step in steps])
    assert [int(step.source_before) for step in steps] == [int(joint[step.share.start - 1]) for step in steps]
    assert [step.places_from_before()[0].item() for step in steps] == [(step.share.start - 1) % 8 for step in steps]


def test_the_task_loss_is_the_cross_entropy_with_mixed_labels():
    run, _, (views, _, labels, _) = first_views(mixing="cutmix")
    run.task.eval()
    loss = run.task(views, {"source": torch.arange(8)}, labels, 0, 0.0, 0.0)[1]["task"].item()
    logits = run.task.model(views["source"], 0, ("source",))[1].detach().double().numpy()
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert loss == pytest.approx(float(-(labels.numpy() * log_probabilities).sum(axis=1).mean()), abs=1e-6)


@pytest.mark.parametrize(("mixing", "cached"), [("mixup", 3), ("cutmix", 0)])
def test_activations_of_frozen_stages_are_mixed_and_pieces_of_images_are_not(mixing, cached):
    report = TrialRun(tiny_config(mixing=mixing, freeze_depth=3), tiny_data(), RULE).epoch(0)
    assert report.cached_stages == cached


def test_a_search_is_told_before_it_starts_which_method_mixes_nothing():
    config = tiny_config(method="deepjdot", mixing="mixup")
    (line,) = configuration_problems([config], DIGITS)
    assert "takes each source example on its own or none at all" in line


def test_a_head_that_is_solved_for_is_not_asked():
    assert configuration_problems([tiny_config(method="logistic", mixing="mixup")], DIGITS) == []
