"""Why a trial could not go on, and how often it may be tried again for that reason."""

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """What failed.

    `WORKER_DIED`, `NODE_LOST`, `PREEMPTED`, `HUNG`, `START_FAILED` and `STORAGE_FAILED` speak of the machines,
    `OUT_OF_MEMORY`, `NOT_FINITE` and `TIME_LIMIT` of the configuration. `OUT_OF_SHARED_MEMORY` may speak of either: the
    memory is shared with others, and it may have been one of them that took it. `ERROR` is anything else that training
    raises.
    """

    WORKER_DIED = "worker_died"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_SHARED_MEMORY = "out_of_shared_memory"
    NOT_FINITE = "not_finite"
    HUNG = "hung"
    TIME_LIMIT = "time_limit"
    START_FAILED = "start_failed"
    STORAGE_FAILED = "storage_failed"
    ERROR = "error"

    @property
    def words(self) -> str:
        """For messages."""
        return self.value.replace("_", " ")

    @property
    def is_of_memory(self) -> bool:
        """Whether the configuration needs more memory than there is, as far as one can tell."""
        return self in (FailureKind.OUT_OF_MEMORY, FailureKind.OUT_OF_SHARED_MEMORY)

    @property
    def speaks_of_configuration(self) -> bool:
        """Whether the sampler should learn from it."""
        return self.is_of_memory or self in (FailureKind.NOT_FINITE, FailureKind.TIME_LIMIT)


# Retries in a row without an epoch of progress between them.
RETRIES = {
    FailureKind.WORKER_DIED: 3,
    FailureKind.NODE_LOST: 10,
    FailureKind.PREEMPTED: 30,
    FailureKind.OUT_OF_SHARED_MEMORY: 2,
    FailureKind.HUNG: 1,
    FailureKind.START_FAILED: 3,
    FailureKind.STORAGE_FAILED: 3,
    FailureKind.OUT_OF_MEMORY: 0,
    FailureKind.NOT_FINITE: 0,
    FailureKind.TIME_LIMIT: 0,
    FailureKind.ERROR: 0,
}


@dataclass(frozen=True)
class Failure:
    """A kind, and what there is to say about this one."""

    kind: FailureKind
    message: str
