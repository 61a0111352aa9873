"""From what Ray or torch raises to a kind of failure."""

import errno
from collections.abc import Collection, Iterator

import ray
import torch
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from ray_tl.errors import NotFinite, NotShared, StorageFailed
from ray_tl.study.failures import Failure, FailureKind

# What a group fails of if several of its workers fail: the rest follows from it.
_ORDER = (
    FailureKind.PREEMPTED,
    FailureKind.NODE_LOST,
    FailureKind.OUT_OF_SHARED_MEMORY,
    FailureKind.OUT_OF_MEMORY,
    FailureKind.STORAGE_FAILED,
    FailureKind.WORKER_DIED,
    FailureKind.ERROR,
)
_OF_STORAGE = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.EACCES}
_NO_ROOM = "WorkerGroupStartupTimeout"


def failure_in_training(error: BaseException, shares_memory: bool) -> Failure:
    """Of what a worker raises within a trial.

    Args:
        error: As it was raised.
        shares_memory: Whether other workers use the same accelerator.
    """
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        shared = FailureKind.OUT_OF_SHARED_MEMORY
        return Failure(shared if shares_memory else FailureKind.OUT_OF_MEMORY, message)
    if isinstance(error, MemoryError):
        return Failure(FailureKind.OUT_OF_MEMORY, message)
    if isinstance(error, NotFinite):
        return Failure(FailureKind.NOT_FINITE, message)
    if isinstance(error, StorageFailed) or (isinstance(error, OSError) and error.errno in _OF_STORAGE):
        return Failure(FailureKind.STORAGE_FAILED, message)
    return Failure(FailureKind.ERROR, message)


def failure_of_slot(error: BaseException, dead_nodes: Collection[str] = ()) -> Failure:
    """Of what ends the Ray Train run of a slot.

    Args:
        error: As `fit` raises it.
        dead_nodes: Ids of nodes that the cluster has lost. A worker whose node dies is at first merely unavailable.
    """
    found = [_failure_of_worker(cause, dead_nodes) for cause in _causes(error)]
    first = min(found, key=lambda each: _ORDER.index(each.kind))
    if first.kind is FailureKind.ERROR and isinstance(error, WorkerGroupError):
        # One rank's error may be the echo of another's end, which can come late.
        return Failure(FailureKind.WORKER_DIED, first.message)
    return first


def is_lack_of_room(error: BaseException) -> bool:
    """Whether a slot did not start because somebody else took its place."""
    return any(_NO_ROOM in type(cause).__name__ or _NO_ROOM in str(cause) for cause in _causes(error))


def not_shared(error: BaseException) -> NotShared | None:
    """What a slot found that started on a node that does not see the files of the study."""
    return next((cause for cause in _causes(error) if isinstance(cause, NotShared)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        yield from error.worker_failures.values()
    elif isinstance(error, ControllerError):
        yield error.controller_failure
    else:
        yield error


def _failure_of_worker(error: BaseException, dead_nodes: Collection[str]) -> Failure:
    cause = getattr(error, "health_check_failure", error)  # Train wraps what it finds when it looks after its workers
    text = str(cause)
    if type(cause).__name__ == "PreemptionError" or getattr(cause, "preempted", False):
        return Failure(FailureKind.PREEMPTED, "its node was taken back (preempted).")
    if "its node has died" in text or any(node in str(error) for node in dead_nodes):
        return Failure(FailureKind.NODE_LOST, "its node was lost.")
    if isinstance(cause, ray.exceptions.OutOfMemoryError) or "low on memory" in text:
        return Failure(FailureKind.OUT_OF_SHARED_MEMORY, "Ray ended its worker because its node ran out of memory.")
    message = f"{type(cause).__name__}: {_first_line(text)}"
    if isinstance(cause, ray.exceptions.RayActorError):
        return Failure(FailureKind.WORKER_DIED, f"its worker died ({_first_line(text).rstrip('.')}).")
    if isinstance(cause, torch.OutOfMemoryError | MemoryError):
        return Failure(FailureKind.OUT_OF_MEMORY, message)
    if isinstance(cause, StorageFailed):
        return Failure(FailureKind.STORAGE_FAILED, text)
    if isinstance(cause, TrainingFailedError):
        return Failure(FailureKind.WORKER_DIED, message)
    return Failure(FailureKind.ERROR, message)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "it says no more")
