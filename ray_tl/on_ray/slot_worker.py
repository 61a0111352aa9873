"""What a slot's workers do: take one trial after the other, and train it together."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import ray
import torch
import torch.distributed as dist
from ray.train.torch import get_device

from ray_tl.collectives import rank, world_size
from ray_tl.data.domains import DomainPair
from ray_tl.errors import RayTLError
from ray_tl.models.backbones.user import register_user_backbones
from ray_tl.on_ray.classification import failure_in_training
from ray_tl.on_ray.reach import require_reach
from ray_tl.on_ray.trial_queue import Holder, Job, Outcome, SlotTask
from ray_tl.selection import rule_of
from ray_tl.study.artifacts import artifacts_of
from ray_tl.training.data import TrialData
from ray_tl.training.distillation import distil_trials
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import evaluate_checkpoint, train_trial
from ray_tl.training.pulse import beats
from ray_tl.training.refit import combine_trials
from ray_tl.training.report import EpochReport, Report

PATIENCE_S = 20.0
HEARTBEAT_S = 2.0
OUTAGE_S = 120.0  # of an address that was reached when the slot started
log = logging.getLogger(__name__)


def work(config: dict) -> None:
    """What every worker of a slot does: take jobs until the queue is closed."""
    holder, queue, task = config["holder"], config["queue"], config["task"]
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ray_tl").setLevel(logging.INFO)  # a line for each epoch, in the worker's log
    require_reach(task.marker)
    torch.set_num_threads(task.threads)
    register_user_backbones(task.backbones)
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    data = _Domains(ray.get(ray.get(queue.data.remote())[0]), device)
    while (job := _next_job(queue, holder)) != "closed":
        if isinstance(job, Job):
            with _heart(queue, holder, job.key):
                _do(job, data, queue, holder, task)


def _next_job(queue: ray.actor.ActorHandle, holder: Holder) -> Job | str:
    """Rank 0 asks, all ranks learn the answer."""
    answer: list[Job | str] = [ray.get(queue.next_job.remote(holder, PATIENCE_S)) if rank() == 0 else "idle"]
    if world_size() > 1:
        dist.broadcast_object_list(answer, 0)
    return answer[0]


@contextmanager
def _heart(queue: ray.actor.ActorHandle, holder: Holder, key: str) -> Iterator[None]:
    """Tell the queue every few seconds that this slot lives, and whether it makes steps; on rank 0."""
    if rank() != 0:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            queue.beat.remote(holder, key, beats())

    thread = threading.Thread(target=beat, name="heart", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Domains:
    """The domains of a study on one worker, with the hold-out held out or trained on.

    Args:
        pair: Of the study.
        device: Where steps run.
    """

    def __init__(self, pair: DomainPair, device: torch.device) -> None:
        self._pair, self._device = pair, device
        self._data, self._is_whole = TrialData(pair, device), False

    def of(self, job: Job) -> TrialData:
        """What a job looks at. Only the kind that was used last is kept, with what it has cached.

        An evaluation is the same with either.
        """
        is_whole = self._is_whole if job.kind == "evaluate" else job.kind != "train"
        if is_whole != self._is_whole:
            pair = self._pair.with_whole_source() if is_whole else self._pair
            self._data, self._is_whole = TrialData(pair, self._device), is_whole
        return self._data


def _do(job: Job, domains: _Domains, queue: ray.actor.ActorHandle, holder: Holder, task: SlotTask) -> None:
    """One job; a trial that breaks down ends, and the slot lives on.

    Our own errors come on every rank alike. Any other may come on one rank alone, or because another rank has died,
    while the rest wait in a collective: then the whole group ends, and the job goes to the next slot that is free. So
    it does where the group is gone by now, and `world_size` raises.
    """
    try:
        outcome = _done(job, domains.of(job), queue, holder, task)
    except Exception as error:
        outcome = Outcome(failure_in_training(error, task.shares_memory))
        if not isinstance(error, RayTLError):
            log.exception("trial %d of %s broke down", job.number, task.study)
            if world_size() > 1:
                if isinstance(error, torch.OutOfMemoryError | MemoryError):  # or an echo elsewhere would be the reason
                    ray.get(queue.end.remote(holder, job.key, outcome))
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if rank() == 0:
        ray.get(queue.end.remote(holder, job.key, outcome))


def _done(job: Job, data: TrialData, queue: ray.actor.ActorHandle, holder: Holder, task: SlotTask) -> Outcome:
    if job.kind == "evaluate":
        return _evaluate(job, data, task)
    if job.kind == "combine":
        return _combine(job, data, queue, holder, task)
    return _train(job, data, queue, holder, task)


def _train(job: Job, data: TrialData, queue: ray.actor.ActorHandle, holder: Holder, task: SlotTask) -> Outcome:
    files, rule = _files(task, job.number), rule_of(task.spec)
    train_trial(job.config, data, _reporter(job, queue, holder, task), files, rule)
    return Outcome()


def _combine(job: Job, data: TrialData, queue: ray.actor.ActorHandle, holder: Holder, task: SlotTask) -> Outcome:
    rule, report = rule_of(task.spec), _reporter(job, queue, holder, task)
    members, files = [_files(task, number) for number in job.members], _files(task, job.number)
    if job.combination == "distilled":
        distil_trials(members, job.config, data, report, files, rule)
        return Outcome()
    assert job.combination != "nearest", "of several networks one is chosen without a job"
    combined = combine_trials(job.combination, members, job.config, data, files, rule)
    if rank() == 0:
        report(combined)
    return Outcome()


def _reporter(job: Job, queue: ray.actor.ActorHandle, holder: Holder, task: SlotTask) -> Report:
    def told_to_stop(report: EpochReport) -> bool:
        log.info("%s trial %04d epoch %d/%d %s", task.study, job.number, report.epoch, job.config.epochs, report.scores)
        for finding in report.findings:
            log.warning("%s trial %04d epoch %d: %s", task.study, job.number, report.epoch, finding)
        return bool(ray.get(queue.report.remote(holder, job.key, report)))

    return told_to_stop


def _evaluate(job: Job, data: TrialData, task: SlotTask) -> Outcome:
    files = _files(task, job.number)
    return Outcome(result=asdict(evaluate_checkpoint(job.config, data, files, rule_of(task.spec))))


def _files(task: SlotTask, number: int) -> TrialFiles:
    folder = Path(task.folder)
    return TrialFiles(folder, number, artifacts_of(task.spec, folder, patience_s=OUTAGE_S))
