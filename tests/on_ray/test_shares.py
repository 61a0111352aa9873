import asyncio

import pytest

from ray_tl.on_ray.placement import SlotShape
from ray_tl.on_ray.shares import SILENCE_S, Demand, Shares, allowances, fair_shares


@pytest.mark.parametrize(
    ("wants", "total", "expected"),
    [
        ([2, 2.6, 4, 5], 10, [2, 2.6, 2.7, 2.7]),  # the example of Wikipedia's "Max-min fairness"
        ([5, 5], 10, [5, 5]),
        ([9, 1], 4, [3, 1]),
        ([1], 4, [1]),
        ([], 4, []),
        ([3, 3], 0, [0, 0]),
    ],
)
def test_fair_shares_are_max_min_fair(wants, total, expected):
    assert fair_shares(wants, total) == pytest.approx(expected)


def demand(wanted: int, held: int, room: int, share: float = 0.125) -> Demand:
    return Demand("a search", wanted, held, room, share, ({"CPU": 1.0},) * wanted)


@pytest.mark.parametrize(
    ("demands", "slots"),
    [
        ([demand(8, 0, 8)], [8]),
        ([demand(8, 8, 0), demand(8, 0, 0)], [4, 4]),  # the first has all, and gives half of it back
        ([demand(8, 7, 0), demand(8, 0, 0)], [4, 3]),  # what rounding leaves goes to the first
        ([demand(8, 8, 0), demand(1, 0, 0)], [7, 1]),
        ([demand(1, 1, 0), demand(8, 0, 0)], [1, 1]),  # one slot in all: nobody is sent away from it
        ([demand(8, 4, 0, 0.125), demand(8, 0, 0, 0.25)], [2, 1]),  # a slot of the second is twice as large
    ],
)
def test_searches_get_whole_slots_of_equal_parts(demands, slots):
    assert allowances(demands) == slots


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_all_searches_want_is_asked_for_together_and_given_back_at_the_end():
    async def main():
        asked = []
        shares = Shares(asked.append, Clock())
        await shares.renew("a", demand(2, 0, 4))
        await shares.renew("a", demand(2, 1, 3))
        assert (await shares.renew("b", demand(1, 0, 2))).others == ("a search",)
        await shares.leave("a")
        await shares.leave("b")
        assert [len(bundles) for bundles in asked] == [2, 3, 1, 0]

    asyncio.run(main())


def test_search_that_ended_without_a_word_is_forgotten():
    async def main():
        asked, clock = [], Clock()
        shares = Shares(asked.append, clock)
        await shares.renew("killed", demand(8, 4, 0))
        clock.now = SILENCE_S + 1
        assert (await shares.renew("b", demand(8, 0, 4))).others == ()
        assert len(asked[-1]) == 8

    asyncio.run(main())


@pytest.mark.parametrize(
    ("shape", "nodes", "slots"),
    [
        (SlotShape(), [{"CPU": 2}, {"CPU": 3}], 5),
        (SlotShape(cpus_per_worker=2), [{"CPU": 3}, {"CPU": 3}], 2),  # two halves on two nodes are no worker
        (SlotShape(workers=4), [{"CPU": 2}, {"CPU": 3}], 1),
        (SlotShape(gpus_per_worker=1), [{"CPU": 64}, {"CPU": 1, "GPU": 8}], 1),
        (SlotShape(gpus_per_worker=0.5), [{"CPU": 8, "GPU": 1.5}], 3),
        (SlotShape(gpus_per_worker=0.4), [{"CPU": 8, "GPU": 2}], 4),  # the fifth would lie across two GPUs
        (SlotShape(cpus_per_worker=0.1), [{"CPU": 0.3}], 3),
        (SlotShape(), [], 0),
    ],
)
def test_room_is_counted_node_by_node(shape, nodes, slots):
    assert shape.fits(nodes) == slots


def test_share_of_a_slot_is_the_larger_of_its_shares():
    assert SlotShape(workers=2, cpus_per_worker=1, gpus_per_worker=1).share_of({"CPU": 64, "GPU": 8}) == 0.25
