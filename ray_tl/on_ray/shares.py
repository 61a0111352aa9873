"""Who may have how much of a cluster on which several searches run, and what the autoscaler is asked for."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray

NAME, NAMESPACE = "ray_tl:shares", "ray_tl"
SILENCE_S = 20.0
LOOK_EVERY_S = 2.0
IDLE_S = 60.0
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Demand:
    """What a search has and would like to have.

    Attributes:
        search: Name, for users; another search may have the same.
        wanted: Slots, at most.
        held: Slots that it has now.
        room: Further slots that would find room now.
        share: Of the whole cluster that one slot takes, in (0, 1]: the larger of its shares of processors and GPUs.
        bundles: What the workers of all wanted slots take, one for each.
    """

    search: str
    wanted: int
    held: int
    room: int
    share: float
    bundles: tuple[dict[str, float], ...] = ()


@dataclass(frozen=True)
class Allowance:
    """What a search may have.

    Attributes:
        slots: So many, if there is room.
        others: Names of the searches with which it shares.
    """

    slots: int
    others: tuple[str, ...]


def fair_shares(wants: Sequence[float], total: float) -> list[float]:
    """Max-min fairness: nobody gets more than is wanted, and what is left goes to the rest in equal parts.

    Bertsekas and Gallager, "Data Networks", 1992, section 6.5.2.

    Args:
        wants: Of each, at least 0.
        total: That there is.
    """
    shares, left = [0.0] * len(wants), total
    waiting = sorted(range(len(wants)), key=lambda index: wants[index])
    while waiting:
        index = waiting.pop(0)
        shares[index] = min(wants[index], left / (len(waiting) + 1))
        left -= shares[index]
    return shares


def allowances(demands: Sequence[Demand]) -> list[int]:
    """Whole slots of each search, at least one; what rounding leaves goes to those that came first."""
    total = sum(each.held * each.share for each in demands) + max((d.room * d.share for d in demands), default=0.0)
    fair = fair_shares([each.wanted * each.share for each in demands], total)
    slots = [max(1, int(part / each.share + TOLERANCE)) for part, each in zip(fair, demands, strict=True)]
    left = total - sum(count * each.share for count, each in zip(slots, demands, strict=True))
    for index, each in enumerate(demands):
        while slots[index] < each.wanted and each.share <= left + TOLERANCE:
            slots[index] += 1
            left -= each.share
    return slots


class Shares:
    """Shares a cluster out among its searches; an async actor of which a cluster has one.

    It asks the autoscaler for what all of them want together, because of several requests Ray knows the last one only.
    A search that falls silent is forgotten, and with it what was asked for; without any search the actor ends.

    Args:
        ask: Asks the autoscaler for bundles.
        clock: Gives the time in seconds.
    """

    def __init__(
        self, ask: Callable[[list[dict[str, float]]], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask or _ask_autoscaler, clock
        self._demands: dict[str, Demand] = {}
        self._seen: dict[str, float] = {}
        self._asked: list[dict[str, float]] = []
        self._idle_since = clock()

    async def renew(self, key: str, demand: Demand) -> Allowance:
        """Say what a search has and wants, at least every 20 s, under a key of its own; gives what it may have."""
        self._demands[key], self._seen[key] = demand, self._clock()
        self._forget_the_silent()
        slots = dict(zip(self._demands, allowances(list(self._demands.values())), strict=True))
        return Allowance(slots[key], tuple(each.search for other, each in self._demands.items() if other != key))

    async def leave(self, key: str) -> None:
        """A search has ended."""
        self._demands.pop(key, None)
        self._seen.pop(key, None)
        self._request()

    async def look_after(self) -> None:
        """Forget searches that ended without a word; ends the actor once there has been none for a minute."""
        while self._demands or self._clock() - self._idle_since < IDLE_S:
            await asyncio.sleep(LOOK_EVERY_S)
            self._forget_the_silent()
            if self._demands:
                self._idle_since = self._clock()
        ray.actor.exit_actor()

    def _forget_the_silent(self) -> None:
        for key in [key for key, seen in self._seen.items() if self._clock() - seen > SILENCE_S]:
            del self._demands[key], self._seen[key]
        self._request()

    def _request(self) -> None:
        wanted = [dict(bundle) for demand in self._demands.values() for bundle in demand.bundles]
        if wanted != self._asked:
            self._ask(wanted)
            self._asked = wanted


def cluster_shares() -> ray.actor.ActorHandle:
    """The actor of this cluster; started on its head if there is none."""
    with contextlib.suppress(ValueError):
        return ray.get_actor(NAME, namespace=NAMESPACE)
    head = {"node:__internal_head__": 0.001}
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    handle = ray.remote(num_cpus=0, resources=head, max_concurrency=1000)(Shares).options(**options).remote()
    handle.look_after.remote()
    return handle


def _ask_autoscaler(bundles: list[dict[str, float]]) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)
