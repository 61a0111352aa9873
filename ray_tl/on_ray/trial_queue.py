"""Where trials wait for a slot, and where their reports wait for Tune."""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import ray

from ray_tl.config import TrialConfig, UserFunction
from ray_tl.selection.refit import Combination
from ray_tl.study.records import StudySpec
from ray_tl.training.report import EpochReport

MAX_RESTARTS = 3
CLOSING = ""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Work for a slot.

    Attributes:
        key: Of this attempt, unique: a resumed search submits the same trial under a new key.
        kind: `train` from the checkpoint on, `refit` likewise on all of the source, `combine` the networks of other
            trials, or `evaluate` the checkpoint.
        members: Numbers of the trials that are combined.
        combination: How.
    """

    key: str
    number: int
    config: TrialConfig
    kind: Literal["train", "refit", "combine", "evaluate"] = "train"
    members: tuple[int, ...] = ()
    combination: Combination = "ensemble"


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        error: `None` if it ended well.
        infeasible: Whether it needed more memory than there is.
        result: Of an evaluation: a path-free summary of plain values.
    """

    error: str | None = None
    infeasible: bool = False
    result: dict[str, object] | None = None


@dataclass(frozen=True)
class SlotTask:
    """All that a slot's workers need to know; the same for every trial of a search."""

    study: str
    folder: str
    spec: StudySpec
    threads: int
    backbones: Mapping[str, UserFunction] = field(default_factory=dict)


Message = EpochReport | Outcome


@dataclass
class _Entry:
    job: Job
    messages: asyncio.Queue = field(default_factory=asyncio.Queue)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    last_epoch: int = 0
    restarts: int = 0
    stopped: bool = False
    ended: bool = False


@dataclass(frozen=True)
class QueueStatus:
    """Plain numbers for metrics and tables.

    Attributes:
        waiting: Jobs that no slot has taken.
        slots: Slots that have asked for a job: their workers are up.
        busy: Trial of each slot that has one.
        restarts: How often each slot came back in the middle of a job.
    """

    waiting: int
    slots: int
    busy: dict[int, int]
    restarts: dict[int, int]


class TrialQueue:
    """Hands jobs to slots and reports to clients; an async actor, so that everyone may wait inside it.

    A slot's report waits until its client has asked for the next one or has stopped the trial: a trial that the
    scheduler stops does not train a step further.

    Args:
        data: List with the object reference of the domain pair; a list, so that the reference is passed on as it is.
    """

    def __init__(self, data: list) -> None:
        self._data = data
        self._entries: dict[str, _Entry] = {}
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._in_flight: dict[int, str] = {}
        self._slots: set[int] = set()
        self._controllers: dict[int, ray.actor.ActorHandle] = {}
        self._restarts: dict[int, int] = {}
        self._closed = False

    async def data(self) -> list:
        return self._data

    async def submit(self, job: Job) -> None:
        self._entries[job.key] = _Entry(job)
        await self._waiting.put(job.key)

    async def next_job(self, slot: int, patience_s: float) -> Job | Literal["idle", "closed"]:
        """The next job for a slot; the one that it had before if it was restarted in the middle.

        Args:
            slot: Number of the asking slot.
            patience_s: Answer `idle` after so long, so that a worker group can keep its connections alive.
        """
        self._slots.add(slot)
        unfinished = self._unfinished(slot)
        if unfinished is not None:
            return unfinished
        while not self._closed:
            try:
                key = await asyncio.wait_for(self._waiting.get(), patience_s)
            except TimeoutError:
                return "idle"
            if key != CLOSING and not self._entries[key].stopped:
                self._in_flight[slot] = key
                return self._entries[key].job
        return "closed"

    async def report(self, slot: int, key: str, report: EpochReport) -> bool:
        """An epoch is done; says whether to stop."""
        entry = self._entries[key]
        if report.epoch > entry.last_epoch and not entry.stopped:
            entry.last_epoch = report.epoch
            entry.wanted.clear()
            await entry.messages.put(report)
            await entry.wanted.wait()
        return entry.stopped

    async def end(self, slot: int, key: str, outcome: Outcome) -> None:
        """A job is over."""
        self._in_flight.pop(slot, None)
        await self._end(self._entries[key], outcome)

    async def next_message(self, key: str) -> Message:
        """The next report of a job, or its outcome; to ask for one is to allow the next epoch."""
        entry = self._entries[key]
        if entry.messages.empty():
            entry.wanted.set()
        message: Message = await entry.messages.get()
        return message

    async def stop(self, key: str) -> None:
        """Stop a job at its next report, or before it starts."""
        entry = self._entries[key]
        entry.stopped = True
        entry.wanted.set()

    async def close(self, num_slots: int) -> None:
        """Every job stops at its next report, and every slot's next question is answered `closed`."""
        self._closed = True
        for key in self._entries:
            await self.stop(key)
        for _ in range(num_slots):
            await self._waiting.put(CLOSING)

    async def enrol(self, slot: int, controller: ray.actor.ActorHandle) -> None:
        """The actor whose end is the end of a slot."""
        self._controllers[slot] = controller

    async def controllers(self) -> list[ray.actor.ActorHandle]:
        """Of every slot that has started."""
        return list(self._controllers.values())

    async def status(self) -> QueueStatus:
        busy = {slot: self._entries[key].job.number for slot, key in self._in_flight.items()}
        return QueueStatus(self._waiting.qsize(), len(self._slots), busy, dict(self._restarts))

    def _unfinished(self, slot: int) -> Job | None:
        key = self._in_flight.get(slot)
        if key is None:
            return None
        entry = self._entries[key]
        self._restarts[slot] = self._restarts.get(slot, 0) + 1
        entry.restarts += 1
        if entry.stopped or entry.restarts > MAX_RESTARTS:
            self._in_flight.pop(slot)
            error = f"its workers died {entry.restarts} times; see the logs of slot {slot} in the Ray dashboard."
            entry.messages.put_nowait(Outcome(error=error))
            entry.ended = True
            return None
        log.warning("slot %d was restarted; trial %d goes on after epoch %d", slot, entry.job.number, entry.last_epoch)
        return entry.job

    async def _end(self, entry: _Entry, outcome: Outcome) -> None:
        if not entry.ended:
            entry.ended = True
            await entry.messages.put(outcome)


def start_queue(study: str, data: ray.ObjectRef) -> ray.actor.ActorHandle:
    """The queue of a search, named so that it is found in the Ray dashboard; it ends with the last slot that asks."""
    actor = ray.remote(num_cpus=0, max_concurrency=1000)(TrialQueue)
    return actor.options(name=f"ray_tl:{study}:queue:{secrets.token_hex(3)}").remote([data])
