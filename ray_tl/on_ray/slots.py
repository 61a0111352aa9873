"""Warm slots: long-lived Ray Train runs, each a DDP worker group that trains one trial after the other."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig

from ray_tl.errors import NoResources, RayTLError
from ray_tl.on_ray.trial_queue import QueueStatus, SlotTask

GROWTH_INTERVAL_S = 3.0
CLOSING_S = 30.0
KILLING_S = 20.0
SlotWatcher = Callable[[int, QueueStatus], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotShape:
    """What one slot takes of a cluster.

    Attributes:
        workers: Ranks of its DDP group.
        cpus_per_worker: Processors of each; also the number of threads that torch uses there.
        gpus_per_worker: Accelerators of each; 0 trains on the processor.
    """

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0

    def fits(self, free: dict[str, float]) -> int:
        """How many slots of this shape the free resources hold."""
        counts = [free.get("CPU", 0.0) / (self.workers * self.cpus_per_worker)]
        if self.gpus_per_worker:
            counts.append(free.get("GPU", 0.0) / (self.workers * self.gpus_per_worker))
        return math.floor(min(counts) + 1e-6)

    def scaling(self) -> ScalingConfig:
        resources = {"CPU": self.cpus_per_worker}
        if self.gpus_per_worker:
            resources["GPU"] = self.gpus_per_worker
        return ScalingConfig(num_workers=self.workers, use_gpu=self.gpus_per_worker > 0, resources_per_worker=resources)


class SlotPool:
    """The slots of a search: as many as the cluster has room for, more when it grows.

    Args:
        queue: Handle of the trial queue.
        task: What the workers need to know.
        shape: What one slot takes.
        max_slots: Never more than so many.
        watch: Called every few seconds with the number of slots and the state of the queue.
        say: Called with a line for a person when there are more slots than before.
    """

    def __init__(
        self,
        queue: ray.actor.ActorHandle,
        task: SlotTask,
        shape: SlotShape,
        max_slots: int,
        watch: SlotWatcher,
        say: Callable[[str], None],
    ) -> None:
        self._queue, self._task, self._shape, self.max_slots = queue, task, shape, max_slots
        self._watch, self._say = watch, say
        self._slots: list[_Slot] = []
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._slots)

    def start(self) -> None:
        """Fill the free part of the cluster.

        Raises:
            NoResources: If there is no room for a single slot.
        """
        if self._shape.fits(ray.available_resources()) == 0:
            raise NoResources(_no_room(self._shape))
        self._admit()

    def grow(self, now: float) -> None:
        """Admit more slots if the cluster has got room; looks at most every few seconds.

        Raises:
            RayTLError: If a slot has ended before it was told to.
        """
        if now - self._looked_at < GROWTH_INTERVAL_S:
            return
        self._looked_at = now
        for slot in self._slots:
            slot.check()
        status: QueueStatus = ray.get(self._queue.status.remote())
        self._watch(len(self), status)
        # What a starting slot will take still looks free: wait until every slot has asked for work.
        if len(self) < self.max_slots and status.slots == len(self) and self._admit():
            self._say(f"the cluster has grown: {len(self)} warm slots of {self._shape.workers} worker(s)")

    def close(self, patience_s: float) -> None:
        """Tell every slot to end by itself, wait for it so long, and then end it.

        A thread that would still ask Ray for something after `ray.shutdown()` would end this process without a word.
        """
        ray.get(self._queue.close.remote(len(self)))
        _join(self._slots, patience_s)
        if any(slot.is_alive() for slot in self._slots):
            for controller in ray.get(self._queue.controllers.remote()):
                ray.kill(controller)
            _join(self._slots, KILLING_S)

    def _admit(self) -> int:
        """Start as many slots as there is room for; gives how many."""
        self._looked_at = time.monotonic()
        room = self._shape.fits(ray.available_resources())
        before = len(self)
        for number in range(before, min(self.max_slots, before + room)):
            slot = _Slot(number, self._queue, self._task, self._shape)
            slot.start()
            self._slots.append(slot)
        return len(self) - before


class _Slot(threading.Thread):
    """Holds one Ray Train run for as long as the search lasts; the run itself lives in actors of its own."""

    def __init__(self, number: int, queue: ray.actor.ActorHandle, task: SlotTask, shape: SlotShape) -> None:
        super().__init__(name=f"slot-{number}", daemon=True)
        self._number, self._queue, self._task, self._shape = number, queue, task, shape
        self._ended: str | None = None

    def run(self) -> None:
        from ray_tl.on_ray.lean_trainer import LeanTorchTrainer  # imports torch
        from ray_tl.on_ray.slot_worker import work

        try:
            LeanTorchTrainer(
                self._queue,
                self._number,
                train_loop_per_worker=work,
                train_loop_config={"slot": self._number, "queue": self._queue, "task": self._task},
                scaling_config=self._shape.scaling(),
                run_config=RunConfig(
                    name=f"{self._task.study}-slot-{self._number}",
                    storage_path=str(Path(self._task.folder) / "ray"),
                    failure_config=FailureConfig(max_failures=-1),
                ),
            ).fit()
            self._ended = "it ended without an error"
        except Exception as error:
            self._ended = f"{type(error).__name__}: {error}"

    def check(self) -> None:
        if self._ended is not None:
            raise RayTLError(f"slot {self._number} is lost ({self._ended}); see its logs in the Ray dashboard.")


def _join(slots: Sequence[_Slot], patience_s: float) -> None:
    """Wait for all of them together."""
    deadline = time.monotonic() + patience_s
    for slot in slots:
        slot.join(max(0.0, deadline - time.monotonic()))


def _no_room(shape: SlotShape) -> str:
    need = f"{shape.workers} x (CPU {shape.cpus_per_worker:g}, GPU {shape.gpus_per_worker:g})"
    free = {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}
    return (
        f"workers_per_trial={shape.workers} needs {need} for one trial, but the cluster has CPU {free['CPU']:g}, "
        f"GPU {free['GPU']:g} free; ask for fewer workers or processors, or wait for room."
    )
