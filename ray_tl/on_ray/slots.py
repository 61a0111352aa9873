"""Warm slots: long-lived Ray Train runs, each a DDP worker group that trains one trial after the other."""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from ray_tl.collectives import rank, world_size
from ray_tl.errors import NoResources, RayTLError, TrialFailed
from ray_tl.on_ray.trial_queue import Job, Outcome
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import evaluate_checkpoint, train_trial
from ray_tl.training.report import EpochReport

PATIENCE_S = 20.0
GROWTH_INTERVAL_S = 3.0
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


@dataclass(frozen=True)
class SlotTask:
    """All that a slot's workers need to know; the same for every trial of a search."""

    study: str
    folder: str
    validators: tuple[str, ...]
    threads: int


class SlotPool:
    """The slots of a search: as many as the cluster has room for, more when it grows.

    Args:
        queue: Handle of the trial queue.
        task: What the workers need to know.
        shape: What one slot takes.
        max_slots: Never more than so many.
    """

    def __init__(self, queue: ray.actor.ActorHandle, task: SlotTask, shape: SlotShape, max_slots: int) -> None:
        self._queue, self._task, self._shape, self.max_slots = queue, task, shape, max_slots
        self._actors: list[ray.actor.ActorHandle] = []
        self._runs: list[ray.ObjectRef] = []
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._runs)

    def start(self) -> None:
        """Fill the free part of the cluster.

        Raises:
            NoResources: If there is no room for a single slot.
        """
        if self._shape.fits(ray.available_resources()) == 0:
            raise NoResources(_no_room(self._shape))
        self._admit()

    def grow(self, now: float) -> None:
        """Admit more slots if the cluster has got room; looks at most every few seconds."""
        if now - self._looked_at > GROWTH_INTERVAL_S and len(self) < self.max_slots:
            self._looked_at = now
            self._admit()

    def check(self) -> None:
        """Raise the error of a slot that has ended before it was told to."""
        done, _ = ray.wait(self._runs, num_returns=len(self._runs), timeout=0)
        if done:
            ray.get(done)
            raise RayTLError("a slot ended before the search did; see its logs in the Ray dashboard.")

    def close(self) -> None:
        """Let every slot end by itself, and wait for it."""
        ray.get(self._queue.close.remote(len(self)))
        _, late = ray.wait(self._runs, num_returns=len(self._runs), timeout=30)
        for actor in self._actors:
            ray.kill(actor)
        if late:
            log.warning("%d slots did not end in time and were stopped", len(late))

    def _admit(self) -> None:
        self._looked_at = time.monotonic()
        room = self._shape.fits(ray.available_resources())
        for number in range(len(self), min(self.max_slots, len(self) + room)):
            actor = Slot.options(name=f"ray_tl:{self._task.study}:slot-{number}").remote()
            self._actors.append(actor)
            self._runs.append(actor.run.remote(number, self._queue, self._task, self._shape))


@ray.remote(num_cpus=0)
class Slot:
    """Holds one Ray Train run for as long as the search lasts."""

    def run(self, number: int, queue: ray.actor.ActorHandle, task: SlotTask, shape: SlotShape) -> None:
        TorchTrainer(
            work,
            train_loop_config={"slot": number, "queue": queue, "task": task},
            scaling_config=shape.scaling(),
            run_config=RunConfig(
                name=f"slot-{number}",
                storage_path=str(Path(task.folder) / "slots"),
                failure_config=FailureConfig(max_failures=-1),
            ),
        ).fit()


def work(config: dict) -> None:
    """What every worker of a slot does: take jobs until the queue is closed."""
    slot, queue, task = config["slot"], config["queue"], config["task"]
    torch.set_num_threads(task.threads)
    data = TrialData(ray.get(ray.get(queue.data.remote())[0]), get_device())
    while (job := _next_job(queue, slot)) != "closed":
        if isinstance(job, Job):
            _do(job, data, queue, slot, task)


def _next_job(queue: ray.actor.ActorHandle, slot: int) -> Job | str:
    """Rank 0 asks, all ranks learn the answer."""
    answer: list[Job | str] = [ray.get(queue.next_job.remote(slot, PATIENCE_S)) if rank() == 0 else "idle"]
    if world_size() > 1:
        dist.broadcast_object_list(answer, 0)
    return answer[0]


def _do(job: Job, data: TrialData, queue: ray.actor.ActorHandle, slot: int, task: SlotTask) -> None:
    """One job; a trial that breaks down ends, and the slot lives on.

    On several ranks the others may be waiting in a collective for the one that failed: the group starts anew.
    """
    try:
        outcome = _train(job, data, queue, slot, task) if job.kind == "train" else _evaluate(job, data, task)
    except Exception as error:
        infeasible = isinstance(error, torch.OutOfMemoryError | MemoryError)
        outcome = Outcome(error=f"{type(error).__name__}: {error}", infeasible=infeasible)
        if not isinstance(error, RayTLError):
            log.exception("trial %d of %s broke down", job.number, task.study)
        if world_size() > 1 and not isinstance(error, TrialFailed):
            ray.get(queue.end.remote(slot, job.key, outcome))
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if rank() == 0:
        ray.get(queue.end.remote(slot, job.key, outcome))


def _train(job: Job, data: TrialData, queue: ray.actor.ActorHandle, slot: int, task: SlotTask) -> Outcome:
    def report(epoch: EpochReport) -> bool:
        log.info("%s trial %04d epoch %d/%d %s", task.study, job.number, epoch.epoch, job.config.epochs, epoch.scores)
        return ray.get(queue.report.remote(slot, job.key, epoch))

    train_trial(job.config, data, report, TrialFiles(Path(task.folder), job.number), task.validators)
    return Outcome()


def _evaluate(job: Job, data: TrialData, task: SlotTask) -> Outcome:
    report = evaluate_checkpoint(job.config, data, TrialFiles(Path(task.folder), job.number), task.validators)
    return Outcome(result={"scores": report.scores, "histogram": report.histogram, "agreement": report.agreement})


def _no_room(shape: SlotShape) -> str:
    need = f"{shape.workers} x (CPU {shape.cpus_per_worker:g}, GPU {shape.gpus_per_worker:g})"
    free = {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}
    return (
        f"workers_per_trial={shape.workers} needs {need} for one trial, but the cluster has CPU {free['CPU']:g}, "
        f"GPU {free['GPU']:g} free; ask for fewer workers or processors, or wait for room."
    )
