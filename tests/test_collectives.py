import pytest
import torch.distributed as dist

from ray_tl.collectives import GroupLost, rank, world_size
from tests.gloo import run_on_ranks


def sizes_before_and_after_the_end_of_the_group() -> list[object]:
    before = [world_size(), rank()]
    dist.destroy_process_group()
    with pytest.raises(GroupLost, match="another rank has died"):
        world_size()
    with pytest.raises(GroupLost):
        rank()
    dist.init_process_group("gloo", store=dist.HashStore(), world_size=1, rank=0)
    return [*before, world_size(), rank()]


def test_a_rank_whose_group_was_taken_down_does_not_take_itself_for_the_only_one():
    assert run_on_ranks(sizes_before_and_after_the_end_of_the_group, 2) == [[2, 0, 1, 0], [2, 1, 1, 0]]


def test_without_a_group_there_is_one_rank():
    assert (world_size(), rank()) == (1, 0)
