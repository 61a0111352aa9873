import errno

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from ray_tl.errors import InvalidInput, NotFinite, NotShared, StorageFailed
from ray_tl.on_ray.classification import failure_in_training, failure_of_slot, is_lack_of_room, not_shared
from ray_tl.study.failures import FailureKind

DEAD_NODE = "3603d8e7ccc32ab8"
# As Ray 2.60 words them.
NODE_DIED = (
    "The actor died unexpectedly before finishing this task.\nThe actor died because its node has died. Node Id: a1"
)
MEMORY = "Task was killed due to the node running low on memory."


def checked(cause: Exception, node: str = "b2") -> WorkerHealthCheckFailedError:
    """What Train finds when it looks after a worker."""
    return WorkerHealthCheckFailedError(f"A worker health check failed.\nnode_id='{node}'", cause)


def died(message: str = "The actor died unexpectedly.", preempted: bool = False) -> ray.exceptions.RayActorError:
    return ray.exceptions.RayActorError(error_msg=message, preempted=preempted)


@pytest.mark.parametrize(
    ("error", "shares_memory", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), False, "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), True, "out_of_shared_memory"),
        (MemoryError("no room"), True, "out_of_memory"),
        (NotFinite("loss 'task' is nan"), False, "not_finite"),
        (StorageFailed("disk full"), False, "storage_failed"),
        (OSError(errno.ENOSPC, "No space left on device"), False, "storage_failed"),
        (OSError(errno.ECONNRESET, "reset"), False, "error"),
        (InvalidInput("width=0 is too small"), False, "error"),
        (ZeroDivisionError("division by zero"), False, "error"),
    ],
)
def test_what_a_trial_raises_has_a_kind(error, shares_memory, kind):
    failure = failure_in_training(error, shares_memory)
    assert failure.kind == FailureKind(kind)
    assert failure.message == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ({0: checked(died())}, "worker_died"),
        ({0: checked(ActorDiedError())}, "worker_died"),
        ({0: checked(died(preempted=True))}, "preempted"),
        ({0: checked(died(NODE_DIED))}, "node_lost"),
        ({0: checked(ActorUnavailableError("RpcError", None), node=DEAD_NODE)}, "node_lost"),
        ({0: checked(ActorUnavailableError("RpcError", None))}, "worker_died"),
        ({0: checked(died(MEMORY))}, "out_of_shared_memory"),
        ({0: RuntimeError("Connection closed by peer"), 1: checked(died(NODE_DIED))}, "node_lost"),
        ({0: RuntimeError("Connection closed by peer"), 1: torch.OutOfMemoryError("full")}, "out_of_memory"),
        ({0: RuntimeError("Connection closed by peer")}, "worker_died"),
    ],
)
def test_what_ends_a_group_of_workers_is_the_cause_and_not_its_echo(errors, kind):
    assert failure_of_slot(WorkerGroupError("it failed", errors), [DEAD_NODE]).kind == FailureKind(kind)


def test_group_that_found_no_room_is_not_one_that_can_not_start():
    crowded = ControllerError(WorkerGroupStartupTimeoutError(2))
    assert is_lack_of_room(crowded)
    assert not is_lack_of_room(ControllerError(RuntimeError("no module named my_net")))
    assert failure_of_slot(ControllerError(RuntimeError("no such module"))).message == "RuntimeError: no such module"


def test_controller_that_was_ended_from_outside_counts_as_a_dead_worker():
    assert failure_of_slot(died("The actor is dead because it was killed by ray.kill")).kind == "worker_died"


def test_a_slot_that_could_not_write_where_files_are_kept_says_so():
    failure = failure_of_slot(WorkerGroupError("", {0: StorageFailed("artifacts='s3://b/x' can't be written.")}))
    assert failure.kind is FailureKind.STORAGE_FAILED
    assert failure.message == "artifacts='s3://b/x' can't be written."


def test_a_slot_on_a_node_that_sees_other_files_is_told_from_any_other():
    unseen = NotShared("node a1 and the driver see different files")
    assert not_shared(WorkerGroupError("", {0: checked(died()), 1: unseen})) is unseen
    assert not_shared(WorkerGroupError("", {0: StorageFailed("disk full")})) is None
