"""Warm slots: long-lived Ray Train runs, each a DDP worker group that trains one trial after the other."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig

from ray_tl.errors import NoResources, RayTLError
from ray_tl.on_ray.classification import failure_of_slot, is_lack_of_room, not_shared
from ray_tl.on_ray.head import HeadWatch
from ray_tl.on_ray.lean_trainer import LeanTrainer
from ray_tl.on_ray.placement import SlotShape, dead_nodes
from ray_tl.on_ray.room import SlotRoom
from ray_tl.on_ray.torch_group import TorchGroup
from ray_tl.on_ray.trial_queue import Holder, QueueStatus, SlotTask
from ray_tl.study.failures import RETRIES, Failure, FailureKind

LOOK_EVERY_S = 1.0
CLOSING_S = 30.0
KILLING_S = 20.0
ABORTING_S = 10.0
ANSWER_S = 60.0
LONGEST_PAUSE_S = 30.0
SlotWatcher = Callable[[int, QueueStatus, Mapping[int, int]], None]
log = logging.getLogger(__name__)


class QueueLost(Exception):
    """The process of the trial queue is gone; the search can go on with a new one."""


class SlotPool:
    """The slots of a search: as many as there is room for, more when the cluster grows, fewer when others need some.

    A thread of its own looks after them every second: slots that have ended are replaced and their jobs handed on,
    slots whose lease has run out are ended.

    Args:
        queue: Handle of the trial queue.
        task: What the workers need to know.
        shape: What one slot takes.
        max_slots: Never more than so many.
        room: Says how many slots this search may have.
        watch: Called every second with the number of slots, the state of the queue, and how often each slot came back.
        say: Called with a line for users when something changes.
        resume_command: By which the search goes on after this process has ended.
    """

    def __init__(
        self,
        queue: ray.actor.ActorHandle,
        task: SlotTask,
        shape: SlotShape,
        max_slots: int,
        room: SlotRoom,
        watch: SlotWatcher,
        say: Callable[[str], None],
        resume_command: str,
    ) -> None:
        self._resume_command = resume_command
        self._queue, self._task, self._shape, self.max_slots = queue, task, shape, max_slots
        self._room, self._watch, self._say = room, watch, say
        self._slots: list[_Slot] = []
        self._starts: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._failed_starts = 0
        self._not_before = 0.0
        self._problem: Exception | None = None
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="slot-keeper", daemon=True)
        self._head = HeadWatch(self._say_that_the_head_is_gone)
        self._most = 0
        self._up: set[Holder] = set()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def num_up(self) -> int:
        """Slots whose workers have asked for a job."""
        return len(self._up)

    @property
    def problem(self) -> Exception | None:
        """Why the search can't go on; `None` while it can."""
        return self._problem

    @property
    def restarts(self) -> dict[int, int]:
        """How often each slot was lost; one that others needed was not."""
        return dict(sorted(self._losses.items()))

    def start(self) -> None:
        """Start the first slots, waiting for room if there will be some.

        Raises:
            NoResources: If there is not, and won't be, room for a single slot.
        """
        self._room.wait_for_one()
        self._admit(self._room.slots(0, self.max_slots))
        self._keeper.start()
        self._head.start()

    def require_queue(self) -> None:
        """Find out at once whether the queue is still there; if it is not, that is the problem."""
        try:
            ray.get(self._queue.status.remote(), timeout=ANSWER_S)
        except (RayActorError, GetTimeoutError) as error:
            self._fail(QueueLost(f"the trial queue is gone ({_in_one_line(error)})"))

    def close(self, patience_s: float) -> None:
        """Tell every slot to end by itself, wait for it so long, and then end it.

        A thread that would still ask Ray for something after `ray.shutdown()` would end this process without a word.
        """
        self._ended.set()
        self._head.end()
        for thread in (self._keeper, self._head):
            if thread.is_alive():
                thread.join()
        self._room.leave()
        try:
            ray.get(self._queue.close.remote(), timeout=ANSWER_S)
            self._learn_controllers()
            _join(self._slots, patience_s)
        except (RayActorError, GetTimeoutError):
            log.warning("the trial queue does not answer; its slots are ended")
        if any(slot.is_alive() for slot in self._slots):
            for slot in self._slots:
                slot.kill()
            _join(self._slots, KILLING_S)

    def _keep(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                self._look()
            except RayActorError as error:
                self._fail(QueueLost(f"the trial queue is gone ({_in_one_line(error)})"))
            except GetTimeoutError:
                log.warning("the trial queue has not answered for %g s", ANSWER_S)
            except RayTLError as error:
                self._fail(error)
            except Exception as error:
                log.exception("looking after the slots failed")
                self._fail(RayTLError(f"looking after the slots failed: {type(error).__name__}: {error}"))
            if self._problem is not None:
                return

    def _look(self) -> None:
        status: QueueStatus = ray.get(self._queue.status.remote(), timeout=ANSWER_S)
        for slot in self._slots:
            slot.has_been_up |= slot.holder in status.up
        up = {slot.holder for slot in self._slots if slot.holder in status.up}
        self._failed_starts = 0 if up - self._up else self._failed_starts
        self._up = up
        for slot in [slot for slot in self._slots if not slot.is_alive()]:
            self._bury(slot)
        self._learn_controllers()
        for holder, failure in ray.get(self._queue.overdue.remote(), timeout=ANSWER_S):
            self._end_overdue(holder, failure)
        starting = sum(slot.holder not in status.up for slot in self._slots)
        allowed = self._room.slots(len(self), self.max_slots, starting)
        if allowed > len(self) and time.monotonic() >= self._not_before:
            self._admit(allowed)
        ray.get(self._queue.keep.remote([slot.holder for slot in self._slots], allowed), timeout=ANSWER_S)
        self._watch(len(self), status, self.restarts)

    def _learn_controllers(self) -> None:
        """While the queue can say it: slots must be ended without it too."""
        controllers = ray.get(self._queue.controllers.remote(), timeout=ANSWER_S)
        for slot in self._slots:
            slot.controller = controllers.get(slot.holder, slot.controller)

    def _admit(self, allowed: int) -> None:
        """Have so many slots."""
        taken = {slot.holder.slot for slot in self._slots}
        free = [number for number in range(self.max_slots) if number not in taken]
        for number in free[: max(0, allowed - len(self))]:
            self._starts[number] += 1
            slot = _Slot(Holder(number, self._starts[number]), self._queue, self._task, self._shape)
            slot.start()
            self._slots.append(slot)
        if self._keeper.is_alive() and len(self) > self._most:
            self._say(f"the cluster has grown: {len(self)} warm slots of {self._shape.workers} worker(s)")
        self._most = max(self._most, len(self))

    def _bury(self, slot: "_Slot") -> None:
        """Hand on the job of a slot that has ended."""
        self._slots.remove(slot)
        if slot.error is None:
            log.info("slot %d has ended", slot.holder.slot)
            return
        if (problem := not_shared(slot.error)) is not None:
            raise problem
        failure = slot.failure
        ray.get(self._queue.lost.remote(slot.holder, failure), timeout=ANSWER_S)
        log.warning("slot %d was lost: %s", slot.holder.slot, failure.message)
        is_of_cluster = failure.kind in (FailureKind.NODE_LOST, FailureKind.PREEMPTED)
        if not slot.has_been_up and is_of_cluster:  # Ray offers the room of a lost node for some seconds more
            return
        self._losses[slot.holder.slot] += 1
        self._say(f"slot {slot.holder.slot} was lost: {failure.message} It is started again where there is room.")
        if not slot.has_been_up and not is_of_cluster and not is_lack_of_room(slot.error):
            self._count_failed_start(failure)

    def _count_failed_start(self, failure: Failure) -> None:
        self._failed_starts += 1
        if self._failed_starts > RETRIES[FailureKind.START_FAILED] and not self._up:
            raise NoResources(
                f"no slot could start, {self._failed_starts} times in a row; the last time: {failure.message} "
                "See the logs of its workers in the Ray dashboard."
            )
        self._not_before = time.monotonic() + min(2.0**self._failed_starts, LONGEST_PAUSE_S)

    def _end_overdue(self, holder: Holder, failure: Failure) -> None:
        slot = next((slot for slot in self._slots if slot.holder == holder), None)
        if slot is not None:
            slot.kill(failure)
        ray.get(self._queue.lost.remote(holder, failure), timeout=ANSWER_S)

    def _say_that_the_head_is_gone(self) -> None:
        self._say(
            "the head of the cluster is gone, and Ray ends this process within a minute; nothing that was trained is "
            f"lost. When the cluster is back, go on with: {self._resume_command}"
        )

    def _fail(self, problem: Exception) -> None:
        """Remember why the search can't go on, and send its clients home."""
        if self._problem is not None:
            return
        self._problem = problem
        self._queue.close.remote()


class _Slot(threading.Thread):
    """Holds one Ray Train run for as long as it lasts; the run itself lives in actors of its own.

    Train does not start its workers again: this thread ends, and the pool sees why.
    """

    def __init__(self, holder: Holder, queue: ray.actor.ActorHandle, task: SlotTask, shape: SlotShape) -> None:
        super().__init__(name=f"slot-{holder.slot}", daemon=True)
        self.holder = holder
        self._queue, self._task, self._shape = queue, task, shape
        self.error: BaseException | None = None
        self.has_been_up = False
        self._killed_for: Failure | None = None
        self.controller: ray.actor.ActorHandle | None = None

    @property
    def failure(self) -> Failure:
        """Why it ended."""
        assert self.error is not None
        return self._killed_for or failure_of_slot(self.error, dead_nodes())

    def run(self) -> None:
        from ray_tl.on_ray.slot_worker import work  # imports torch

        uses_gpus = self._shape.gpus_per_worker > 0
        try:
            LeanTrainer(
                self._queue,
                self.holder,
                TorchGroup("nccl" if uses_gpus else "gloo"),
                train_loop_per_worker=work,
                train_loop_config={"holder": self.holder, "queue": self._queue, "task": self._task},
                scaling_config=ScalingConfig(
                    num_workers=self._shape.workers, use_gpu=uses_gpus, resources_per_worker=self._shape.bundle
                ),
                run_config=RunConfig(
                    name=f"{self._task.study}-slot-{self.holder.slot}",
                    storage_path=str(Path(self._task.folder) / "ray"),
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
                ),
            ).fit()
        except Exception as error:
            self.error = error

    def kill(self, failure: Failure | None = None) -> None:
        """End its run and its workers from outside."""
        self._killed_for = self._killed_for or failure
        if self.controller is not None:
            # To abort gives back its placement group, which outlives a controller that is merely killed.
            ray.wait([self.controller.abort.remote()], timeout=ABORTING_S)
            ray.kill(self.controller)


def _join(slots: Sequence[_Slot], patience_s: float) -> None:
    """Wait for all of them together."""
    deadline = time.monotonic() + patience_s
    for slot in slots:
        slot.join(max(0.0, deadline - time.monotonic()))


def _in_one_line(error: BaseException) -> str:
    """Ray says why an actor died in the lines after the first."""
    return " ".join(str(error).split()) or type(error).__name__
