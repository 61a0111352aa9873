"""Where trials wait for a slot, and where their reports wait for Tune."""

import asyncio
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import ray

from ray_tl.config import TrialConfig, UserFunction
from ray_tl.on_ray.placement import on_this_node
from ray_tl.on_ray.reach import MarkerFile
from ray_tl.study.failures import RETRIES, Failure, FailureKind
from ray_tl.study.records import StudySpec
from ray_tl.training.report import EpochReport

if TYPE_CHECKING:  # the queue's process starts a second earlier without
    from ray_tl.selection.refit import Combination

DECISION_S = 10.0
CLIENT_START_S = 60.0
LOOK_EVERY_S = 0.05
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Work for a slot.

    Attributes:
        key: Unique in the queue. A second job under the same key is the first: its client goes on where another ended.
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
    combination: "Combination" = "ensemble"


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        failure: `None` if it ended well.
        result: Of an evaluation: a path-free summary of plain values.
        is_withdrawn: The search was interrupted; the trial goes on when the search is resumed.
    """

    failure: Failure | None = None
    result: dict[str, object] | None = None
    is_withdrawn: bool = False

    @property
    def error(self) -> str | None:
        """What went wrong, in words."""
        return None if self.failure is None else self.failure.message


@dataclass(frozen=True)
class Holder:
    """A slot from one start to its end; a slot that is started again is another holder.

    Attributes:
        slot: Number of the slot.
        start: Which of its starts, counted from 1.
    """

    slot: int
    start: int = 1


@dataclass(frozen=True)
class SlotTask:
    """All that a slot's workers need to know; the same for every trial of a search.

    Attributes:
        marker: File that every node must see before it trains.
        shares_memory: Whether a worker has less than a whole GPU, so that others may take its memory.
    """

    study: str
    folder: str
    spec: StudySpec
    threads: int
    marker: MarkerFile
    backbones: Mapping[str, UserFunction] = field(default_factory=dict)
    shares_memory: bool = False


@dataclass(frozen=True)
class Limits:
    """How long is too long.

    Attributes:
        lease_s: A slot without a sign of life for so long loses its job.
        hang_s: So does one that lives, but does no step of training or evaluation.
        trial_s: A trial ends after so many seconds on slots; `None` for no limit.
    """

    lease_s: float = 60.0
    hang_s: float = 900.0
    trial_s: float | None = None


Message = EpochReport | Outcome


@dataclass
class _Lease:
    """A job in the hands of a slot."""

    holder: Holder
    since: float
    seen: float
    stepped: float
    steps: int = -1


@dataclass
class _Entry:
    job: Job
    reports: list[EpochReport] = field(default_factory=list)
    outcome: Outcome | None = None
    lease: _Lease | None = None
    failures: Counter[FailureKind] = field(default_factory=Counter)
    seconds: float = 0.0
    decided: int = 0
    client: str | None = None
    stopped: bool = False
    awaits_client: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def is_over(self) -> bool:
        return self.stopped or self.outcome is not None

    @property
    def last_epoch(self) -> int:
        return self.reports[-1].epoch if self.reports else 0

    def after(self, epoch: int) -> Message | None:
        """What a client that knows so many epochs should hear next."""
        return next((report for report in self.reports if report.epoch > epoch), self.outcome)


@dataclass(frozen=True)
class QueueStatus:
    """Plain numbers for metrics and tables.

    Attributes:
        waiting: Jobs that no slot has taken.
        up: Slots that have asked for a job: their workers are up.
        busy: Trial of each slot that has one.
    """

    waiting: int
    up: frozenset[Holder]
    busy: dict[int, int]


@dataclass(frozen=True)
class QueueHandle:
    """The queue of a search as its driver holds it, for trials whose clients are processes of their own.

    Attributes:
        name: By which clients find it.
        actor: The queue.
    """

    name: str
    actor: ray.actor.ActorHandle

    def submit(self, job: Job) -> None:
        """Queue a job; one that is known goes on where it is."""
        ray.get(self.actor.submit.remote(job, awaits_client=True))


class TrialQueue:
    """Leases jobs to slots and hands reports to clients; an async actor, so that everyone may wait inside it.

    A job belongs to a slot as long as the slot shows that it lives and makes steps. One that fails, falls silent or
    hangs loses its job to the front of the queue, for any slot; how often that may happen in a row depends on why
    (`RETRIES`), and an epoch of progress resets the count.

    Args:
        data: List with the object reference of the domain pair; a list, so that the reference is passed on as it is.
        spec: Of the study.
        limits: After which a lease ends.
        clock: Gives the time in seconds.
    """

    def __init__(
        self, data: list, spec: StudySpec, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._data, self._spec, self._limits, self._clock = data, spec, limits, clock
        self._entries: dict[str, _Entry] = {}
        self._waiting: deque[str] = deque()
        self._arrived = asyncio.Event()
        self._up: set[Holder] = set()
        self._controllers: dict[Holder, ray.actor.ActorHandle] = {}
        self._retiring = 0
        self._retired: set[Holder] = set()
        self._closed = False

    async def data(self) -> list:
        return self._data

    async def spec(self) -> StudySpec:
        """What clients need to know of the study, so that it is not sent with every trial."""
        return self._spec

    async def submit(self, job: Job, awaits_client: bool = False) -> None:
        """Put a job at the end of the queue, unless it is known.

        Args:
            job: What to do.
            awaits_client: Whether the process that will ask for its messages is still to start.
        """
        if job.key not in self._entries:
            self._entries[job.key] = _Entry(job)
            self._enqueue(job.key)
        self._entries[job.key].awaits_client = awaits_client

    async def next_job(self, holder: Holder, patience_s: float) -> Job | Literal["idle", "closed"]:
        """The next job for a slot.

        Args:
            holder: Who asks.
            patience_s: Answer `idle` after so long, so that a worker group can keep its connections alive.
        """
        self._up.add(holder)
        for entry in self._held_by(holder):
            await self._give_up(entry, Failure(FailureKind.WORKER_DIED, "its workers started again in its middle."))
        while not self._closed:
            if self._retiring > 0:
                self._retiring -= 1
                self._retired.add(holder)
                return "closed"
            if (first := self._first_waiting()) is not None:
                now = self._clock()
                first.lease = _Lease(holder, now, now, now)
                return first.job
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), patience_s)
            except TimeoutError:
                return "idle"
        return "closed"

    async def beat(self, holder: Holder, key: str, steps: int) -> None:
        """A sign of life.

        Args:
            holder: Whose.
            key: Of the job that it does.
            steps: Counter that moves with every step of its work.
        """
        lease = self._lease(holder, key)
        if lease is not None:
            lease.seen = self._clock()
            if steps != lease.steps:
                lease.steps, lease.stepped = steps, lease.seen

    async def report(self, holder: Holder, key: str, report: EpochReport) -> bool:
        """An epoch is done; says whether to stop, as soon as the client has decided, or after ten seconds."""
        lease = self._lease(holder, key)
        if lease is None:
            return True
        entry = self._entries[key]
        lease.seen = lease.stepped = self._clock()
        if report.epoch > entry.last_epoch:
            entry.reports.append(report)
            entry.failures.clear()
            await _notify(entry)
        await _until(entry, lambda: entry.is_over or entry.decided >= report.epoch, DECISION_S)
        return entry.is_over or entry.lease is not lease

    async def end(self, holder: Holder, key: str, outcome: Outcome) -> None:
        """A job is over, or failed; of one that a slot has lost it is not heard."""
        if self._lease(holder, key) is None:
            return
        entry = self._entries[key]
        if outcome.failure is not None:
            await self._give_up(entry, outcome.failure)
        else:
            await self._finish(entry, outcome)

    async def lost(self, holder: Holder, failure: Failure) -> None:
        """A slot has ended; its job goes to the front of the queue, or fails if that happened too often."""
        self._up.discard(holder)
        self._controllers.pop(holder, None)
        for entry in self._held_by(holder):
            await self._give_up(entry, failure)

    async def overdue(self) -> list[tuple[Holder, Failure]]:
        """Slots whose lease has run out, and why; who asks ends them, and says so by `lost`."""
        found = ((entry.lease, self._why_overdue(entry)) for entry in self._entries.values() if entry.lease)
        return [(lease.holder, failure) for lease, failure in found if failure is not None]

    async def next_message(self, key: str, after: int, client: str | None = None) -> Message:
        """The first report of a job after that of epoch `after`, or its outcome.

        To ask is to have decided on everything up to `after`, and to be the client of this job from now on. A message
        that may end a trial waits for clients that are starting: Tune would give the client of the ended trial to one
        whose own is starting, and end that process. Where trials are shorter than the start of a process, it would
        start one for every trial.
        """
        entry = self._entries[key]
        entry.client, entry.awaits_client = client, False
        entry.decided = max(entry.decided, after)
        await _notify(entry)
        await _until(entry, lambda: entry.after(after) is not None, None)
        message = entry.after(after)
        assert message is not None
        await self._may_be_told(message)
        return message

    async def _may_be_told(self, message: Message) -> None:
        """Wait until no client is starting, if the message may end its trial."""
        limit = self._clock() + CLIENT_START_S
        while any(entry.awaits_client and not entry.is_over for entry in self._entries.values()):
            ends = isinstance(message, Outcome) or message.epoch >= self._spec.search.grace_epochs
            if not ends or self._closed or self._clock() > limit:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def stop(self, key: str, client: str | None = None) -> None:
        """Stop a job at its next report, or before it starts; nobody will ask for it again.

        Tune dismisses a client that is still starting when another one is free for its trial, and a lost one may speak
        late: a client that is not the last to have asked for this job has no say in it.
        """
        entry = self._entries.get(key)
        if entry is not None and client in (None, entry.client):
            entry.stopped = True
            await _notify(entry)
            self._forget_if_unused(entry)

    async def keep(self, slots: Collection[Holder], allowed: int) -> None:
        """Of these slots so many stay; the others end when they next ask for a job.

        Those that have been told so already count as gone, though it takes them a while to end.
        """
        self._retired &= set(slots)
        self._retiring = max(0, len(slots) - len(self._retired) - allowed)
        self._arrived.set()

    async def close(self) -> None:
        """Every job stops at its next report, its client is told so, and every slot ends when it next asks."""
        self._closed = True
        self._arrived.set()
        for entry in list(self._entries.values()):
            if entry.outcome is None:
                await self._finish(entry, Outcome(is_withdrawn=True), keep_lease=True)

    async def enrol(self, holder: Holder, controller: ray.actor.ActorHandle) -> None:
        """The actor whose end is the end of a slot."""
        self._controllers[holder] = controller

    async def controllers(self) -> dict[Holder, ray.actor.ActorHandle]:
        """Of every slot that has started."""
        return dict(self._controllers)

    async def status(self) -> QueueStatus:
        held = [entry for entry in self._entries.values() if entry.lease is not None]
        busy = {entry.lease.holder.slot: entry.job.number for entry in held if entry.lease is not None}
        waiting = sum(not self._entries[key].is_over for key in self._waiting if key in self._entries)
        return QueueStatus(waiting, frozenset(self._up), busy)

    def _first_waiting(self) -> _Entry | None:
        while self._waiting:
            entry = self._entries.get(self._waiting.popleft())
            if entry is not None and not entry.is_over and entry.lease is None:
                return entry
        return None

    def _enqueue(self, key: str, first: bool = False) -> None:
        (self._waiting.appendleft if first else self._waiting.append)(key)
        self._arrived.set()

    def _lease(self, holder: Holder, key: str) -> _Lease | None:
        """A job's lease, if it is this holder's."""
        entry = self._entries.get(key)
        return entry.lease if entry is not None and entry.lease is not None and entry.lease.holder == holder else None

    def _held_by(self, holder: Holder) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.lease is not None and entry.lease.holder == holder]

    def _why_overdue(self, entry: _Entry) -> Failure | None:
        assert entry.lease is not None
        lease, now, limits = entry.lease, self._clock(), self._limits
        if now - lease.seen > limits.lease_s:
            return Failure(FailureKind.NODE_LOST, f"slot {lease.holder.slot} was silent for {limits.lease_s:g} s.")
        if now - lease.stepped > limits.hang_s:
            return Failure(FailureKind.HUNG, f"slot {lease.holder.slot} did no step for {limits.hang_s:g} s.")
        if limits.trial_s is not None and not entry.is_over and entry.seconds + now - lease.since > limits.trial_s:
            return Failure(FailureKind.TIME_LIMIT, f"it took longer than search.trial_time_limit_s={limits.trial_s:g}.")
        return None

    async def _give_up(self, entry: _Entry, failure: Failure) -> None:
        """End a lease with a failure: the job is tried again, or has failed."""
        self._release(entry)
        if entry.is_over:
            self._forget_if_unused(entry)
            return
        kind = failure.kind
        entry.failures[kind] += 1
        if entry.failures[kind] <= RETRIES[kind]:
            log.warning("trial %d goes on after epoch %d: %s", entry.job.number, entry.last_epoch, failure.message)
            self._enqueue(entry.job.key, first=kind is not FailureKind.OUT_OF_SHARED_MEMORY)  # that neighbour may end
            return
        times = f" That was so {entry.failures[kind]} times without an epoch in between." if RETRIES[kind] else ""
        await self._finish(entry, Outcome(Failure(kind, failure.message + times)))

    async def _finish(self, entry: _Entry, outcome: Outcome, keep_lease: bool = False) -> None:
        if not keep_lease:
            self._release(entry)
        if entry.outcome is None:
            entry.outcome = outcome
        await _notify(entry)
        self._forget_if_unused(entry)

    def _release(self, entry: _Entry) -> None:
        if entry.lease is not None:
            entry.seconds += self._clock() - entry.lease.since
            entry.lease = None

    def _forget_if_unused(self, entry: _Entry) -> None:
        if entry.stopped and entry.lease is None:
            self._entries.pop(entry.job.key, None)


async def _notify(entry: _Entry) -> None:
    async with entry.changed:
        entry.changed.notify_all()


async def _until(entry: _Entry, holds: Callable[[], bool], limit_s: float | None) -> None:
    """Wait until something holds of an entry, or so long."""

    async def wait() -> None:
        async with entry.changed:
            await entry.changed.wait_for(holds)

    try:
        await asyncio.wait_for(wait(), limit_s)
    except TimeoutError:
        log.info("trial %d: nothing was decided for %g s", entry.job.number, limit_s)


def start_queue(spec: StudySpec, data: ray.ObjectRef, limits: Limits) -> QueueHandle:
    """The queue of a search, on the node of this process; by its name it is found in the Ray dashboard."""
    name = f"ray_tl:{spec.name}:queue:{secrets.token_hex(3)}"
    actor = ray.remote(num_cpus=0, max_concurrency=1000, label_selector=on_this_node())(TrialQueue)
    return QueueHandle(name, actor.options(name=name).remote([data], spec, limits))
