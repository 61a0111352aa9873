"""Which rows make which step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_tl.training.batches import PairedBatches
from ray_tl.training.run import TrialRun
from tests.training.tiny import RULE, tiny_config, tiny_data

SIZES = st.integers(1, 40)
RANKS = st.integers(1, 5)


def epoch_of(num_source, num_target, batch_size, rank=0, world_size=1, seed=0, epoch=0):
    return list(PairedBatches(num_source, num_target, batch_size, rank, world_size, seed).epoch(epoch))


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(1, 6), RANKS, st.integers(0, 3))
def test_ranks_together_see_the_batches_of_one_process(more_source, more_target, per_rank, world_size, epoch):
    batch = per_rank * world_size
    sizes = (batch + more_source, batch + more_target, batch)
    ranks = [epoch_of(*sizes, rank, world_size, epoch=epoch) for rank in range(world_size)]
    for joint, *parts in zip(epoch_of(*sizes, epoch=epoch), *ranks, strict=True):
        assert torch.equal(torch.cat([part.source_rows for part in parts]), joint.source_rows)
        assert torch.equal(torch.cat([part.target_rows for part in parts]), joint.target_rows)
        assert torch.equal(torch.cat([torch.arange(batch)[part.share] for part in parts]), torch.arange(batch))


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(2, 64), RANKS)
def test_every_rank_has_equally_many_rows_of_both_domains_in_every_step(num_source, num_target, batch, world_size):
    largest = min(batch, num_source, num_target) // world_size
    for rank in range(world_size):
        for step in epoch_of(num_source, num_target, batch, rank, world_size):
            assert len(step.source_rows) == len(step.target_rows) == max(1, largest)
            assert step.total == max(1, largest) * world_size


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(1, 64), st.integers(0, 3))
def test_an_epoch_is_one_pass_over_the_source_less_the_last_part_batch(num_source, num_target, batch, epoch):
    steps = epoch_of(num_source, num_target, batch, epoch=epoch)
    seen = torch.cat([step.source_rows for step in steps])
    size = min(batch, num_source, num_target)
    assert len(seen) == len(seen.unique()) == num_source // size * size


def test_a_shorter_target_is_repeated_and_every_row_comes_before_any_comes_again():
    rows = torch.cat([step.target_rows for step in epoch_of(num_source=20, num_target=6, batch_size=4)])
    assert len(rows) == 20
    assert sorted(rows[:6].tolist()) == sorted(rows[6:12].tolist()) == list(range(6))
    assert rows[:6].tolist() != rows[6:12].tolist()


def test_a_batch_larger_than_the_data_is_cut_to_the_smaller_domain():
    steps = epoch_of(num_source=20, num_target=6, batch_size=64)
    assert [len(step.source_rows) for step in steps] == [6, 6, 6]


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_order_depends_on_seed_and_epoch(change):
    first, again, other = (epoch_of(40, 40, 40, **kwargs)[0] for kwargs in ({}, {}, change))
    assert torch.equal(first.source_rows, again.source_rows)
    assert not torch.equal(first.source_rows, other.source_rows)


def test_source_and_target_are_shuffled_independently():
    (step,) = epoch_of(40, 40, 40)
    assert not torch.equal(step.source_rows, step.target_rows)


def test_an_epoch_that_needs_more_steps_goes_over_both_domains_again():
    steps = list(PairedBatches(20, 30, 8, 0, 1, seed=0, least_steps=6).epoch(0))
    source, target = (torch.cat([getattr(step, name) for step in steps]) for name in ("source_rows", "target_rows"))
    assert len(steps) == 6
    assert sorted(source[:20].tolist()) == sorted(source[20:40].tolist()) == list(range(20))
    assert sorted(target[:30].tolist()) == list(range(30))


def test_an_epoch_that_has_enough_steps_is_what_it_was():
    enough = PairedBatches(20, 30, 8, 0, 1, seed=0, least_steps=2).epoch(1)
    for one, other in zip(enough, PairedBatches(20, 30, 8, 0, 1, seed=0).epoch(1), strict=True):
        assert torch.equal(one.source_rows, other.source_rows)
        assert torch.equal(one.target_rows, other.target_rows)


def steps_of_epochs(**changes) -> list[int]:
    """How many steps the optimiser has made after each epoch of a trial of three epochs."""
    run = TrialRun(tiny_config(epochs=3, optimizer="adamw", **changes), tiny_data(), RULE)
    made = []
    for epoch in range(3):
        run.epoch(epoch)
        made.append(int(run._optimizer.state[run.task.model.head.weight]["step"]))
    return made


def test_a_head_on_cached_features_takes_the_least_number_of_steps():
    assert steps_of_epochs(freeze_depth="head_only") == [3, 6, 9]
    assert steps_of_epochs(freeze_depth="head_only", min_steps=20) == [7, 14, 21]
    assert steps_of_epochs(freeze_depth="head_only", min_steps=5) == [3, 6, 9]


def test_where_stages_train_or_images_change_an_epoch_stays_one_pass():
    assert steps_of_epochs(freeze_depth="last_1", min_steps=20) == [3, 6, 9]
    assert steps_of_epochs(freeze_depth="head_only", min_steps=20, augmentation="affine") == [3, 6, 9]


def test_a_head_that_trains_first_takes_more_steps_until_stages_join():
    probe = {"probe_then_fine_tune": {"until": 0.3}}
    assert steps_of_epochs(freeze_depth=0, min_steps=20, unfreezing=probe) == [7, 10, 13]
