"""How many slots a search may have: of what is free, of what others leave, and of what the cluster can grow to."""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from ray_tl.errors import NoResources
from ray_tl.on_ray.placement import Resources, SlotShape, free_resources, total_resources
from ray_tl.on_ray.shares import Allowance, Demand, cluster_shares

ANSWER_S = 30.0
LOOK_EVERY_S = 1.0
SAY_EVERY_S = 30.0
AUTOSCALER_S = 15.0  # one that has just started has not reported yet
OWN_ROOM_S = 60.0  # workers that were ended a moment ago leave theirs late


class SlotRoom:
    """Room for the slots of one search.

    Args:
        search: Name, for users.
        shape: What one slot takes.
        max_slots: That the search would use.
        is_shared: Whether the cluster was there before the search: then others may use it, and it may grow.
        wait_s: For room, at most.
        say: Called with a line for users while there is none.
    """

    def __init__(
        self,
        search: str,
        shape: SlotShape,
        max_slots: int,
        is_shared: bool,
        wait_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._search, self._shape, self._max_slots = search, shape, max_slots
        self._key = secrets.token_hex(8)
        self._is_shared, self._wait_s, self._say = is_shared, wait_s, say
        self._others: tuple[str, ...] = ()

    def wait_for_one(self) -> None:
        """Return when there is room for a slot.

        Raises:
            NoResources: If there is none on a Ray that nobody else uses, or that can't become large enough; or none
                came in time.
        """
        limit_s = self._wait_s if self._is_shared else OWN_ROOM_S
        began, said_at = time.monotonic(), float("-inf")
        while self.slots(0, self._max_slots) == 0:
            now = time.monotonic()
            if not self._may_come() and now - began >= (AUTOSCALER_S if self._is_shared else 0):
                raise NoResources(self._no_room("ask for fewer workers or processors, or for a larger cluster"))
            if now - began > limit_s:
                raise NoResources(self._no_room(f"it has been so for {limit_s:g} s (wait_for_room_s)"))
            if self._is_shared and now - said_at > SAY_EVERY_S:
                self._say(self._waiting())
                said_at = now
            time.sleep(LOOK_EVERY_S)

    def slots(self, held: int, wanted: int, starting: int = 0) -> int:
        """How many slots the search may have now.

        Args:
            held: That it has.
            wanted: That it would use.
            starting: Of those that it has; what they will take may still look free.
        """
        room = max(0, self._shape.fits(free_resources()) - starting)
        allowed = min(wanted, held + room)
        if not self._is_shared:
            return allowed
        return min(allowed, self._allowance(held, room, wanted).slots)

    def leave(self) -> None:
        """Give back what was asked of the autoscaler."""
        if self._is_shared:
            with suppress(RayActorError, GetTimeoutError):  # it forgets searches that fall silent
                ray.get(cluster_shares().leave.remote(self._key), timeout=ANSWER_S)

    def _allowance(self, held: int, room: int, wanted: int) -> Allowance:
        shape = self._shape
        share = min(1.0, shape.share_of(_sum(total_resources())))
        demand = Demand(self._search, wanted, held, room, share, (shape.bundle,) * (wanted * shape.workers))
        try:
            allowance: Allowance = ray.get(cluster_shares().renew.remote(self._key, demand), timeout=ANSWER_S)
        except (RayActorError, GetTimeoutError):  # its node is gone; the next look starts another
            return Allowance(wanted, ())
        self._others = allowance.others
        return allowance

    def _may_come(self) -> bool:
        """Whether room for one slot may appear: somebody else ends, or the cluster grows."""
        if self._shape.fits(total_resources()) > 0:
            return True
        if not self._is_shared:
            return False
        most = most_resources()
        return has_autoscaler() if most is None else self._shape.fits([most]) > 0

    def _waiting(self) -> str:
        others = f"; searches {', '.join(self._others)} share it" if self._others else ""
        grows = ", and asked the autoscaler for more" if has_autoscaler() else ""
        return f"waiting for room: {self._need()}{others}{grows}"

    def _no_room(self, remedy: str) -> str:
        return f"workers_per_trial={self._shape.workers} needs {self._need()}; {remedy}."

    def _need(self) -> str:
        shape, free = self._shape, _sum(free_resources())
        need = f"{shape.workers} x (CPU {shape.cpus_per_worker:g}, GPU {shape.gpus_per_worker:g}) for one trial"
        has = f"the cluster has CPU {free.get('CPU', 0):g}, GPU {free.get('GPU', 0):g} free"
        nodes = len(total_resources())
        return f"{need}, but {has}" + (f" on {nodes} nodes" if nodes > 1 else "")


def most_resources() -> dict[str, float] | None:
    """What a cluster may grow to; `None` if no autoscaler has said so, as older ones never do."""
    from ray._private.state import state

    found = state.get_max_resources_from_cluster_config()
    return None if found is None else {name: float(value) for name, value in found.items()}


def has_autoscaler() -> bool:
    """Whether one has reported on this cluster."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    return _internal_kv_get(DEBUG_AUTOSCALING_STATUS) is not None or most_resources() is not None


def _sum(nodes: list[Resources]) -> dict[str, float]:
    total: dict[str, float] = {}
    for node in nodes:
        for name, value in node.items():
            total[name] = total.get(name, 0.0) + value
    return total
