"""Whether every node reaches the files of a study, found out before anything trains there.

Each node reads a file that the driver has written, and the driver one that each node has written. Nodes that come later
are asked by every slot that starts on them.
"""

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import GetTimeoutError, RayError

from ray_tl.errors import NotShared, RayTLError, StorageFailed, storage_failure
from ray_tl.on_ray.placement import NODE_LABEL, SlotShape
from ray_tl.study.artifacts import EXAMPLE, Artifacts, artifacts_of
from ray_tl.study.records import StudySpec

if TYPE_CHECKING:
    from ray_tl.study.store import StudyStore  # which a node that is asked does without

LAG_S = 5.0  # network file systems may show a new file a little later
ANSWER_S = 120.0  # a busy node takes a while to start a process
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MarkerFile:
    """A file that the driver has written among those of a study, for every node to see.

    Attributes:
        spec: Of the study.
        folder: Of the study.
        name: Of the file.
    """

    spec: StudySpec
    folder: str
    name: str

    @property
    def artifacts(self) -> Artifacts:
        return artifacts_of(self.spec, Path(self.folder))

    def unseen_by(self, who: str) -> NotShared:
        """An error for nodes that don't see the file, or whose answer the driver doesn't see."""
        name = self.spec.name
        return NotShared(
            f"{who} and the driver see different files in {self.artifacts}, where all that train must see those of "
            f"study {name!r}; put --home (or $RAY_TL_HOME) on storage that all nodes share, or keep checkpoints and "
            f"evidence at an address that all reach: ray-tl search --resume {name} --artifacts {EXAMPLE}"
        )


@contextmanager
def marker_for_nodes(store: "StudyStore", shape: SlotShape) -> Iterator[MarkerFile]:
    """A file that every node with room for a worker sees; slots that start later look for it.

    Raises:
        NotShared: With all nodes that don't see it, or whose answer is not seen here.
        StorageFailed: If the files of the study can't be written or read, here or on a node.
    """
    marker = MarkerFile(store.spec, str(store.folder), f".seen-{secrets.token_hex(6)}")
    _write(marker, marker.name)
    try:
        _ask_all(marker, _nodes(shape))
        yield marker
    finally:
        _remove(marker, marker.name)


def require_reach(marker: MarkerFile) -> None:
    """See to it that the node of a slot's worker sees the file, and can write beside it; errors as above."""
    node = f"node {ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"
    answer = f"{marker.name}-{secrets.token_hex(6)}"
    if (problem := _answer(marker, answer, node)) is not None:
        raise problem
    _remove(marker, answer)


def _nodes(shape: SlotShape) -> dict[str, str]:
    """Names of nodes on which a worker has room, by id."""
    worker = replace(shape, workers=1)
    found = [node for node in ray.nodes() if node["Alive"] and worker.fits([node["Resources"]])]
    return {node["NodeID"]: f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in found}


def _ask_all(marker: MarkerFile, nodes: Mapping[str, str]) -> None:
    if set(nodes) <= {ray.get_runtime_context().get_node_id()}:
        return
    look = ray.remote(num_cpus=0, max_retries=0)(_answer)
    answers = {node_id: f"{marker.name}-{node_id[:12]}" for node_id in nodes}
    asked = {
        node_id: look.options(label_selector={NODE_LABEL: node_id}).remote(marker, answers[node_id], name)
        for node_id, name in nodes.items()
    }
    deadline = time.monotonic() + ANSWER_S
    problems = {node_id: _problem(asked[node_id], nodes[node_id], deadline) for node_id in nodes}
    unseen = [node_id for node_id, problem in problems.items() if isinstance(problem, NotShared)]
    unseen += [
        node_id for node_id, problem in problems.items() if problem is None and not _sees(marker, answers[node_id])
    ]
    for answer in answers.values():
        _remove(marker, answer)
    for problem in problems.values():
        if problem is not None and not isinstance(problem, NotShared):
            raise problem
    if unseen:
        raise marker.unseen_by(", ".join(nodes[node_id] for node_id in unseen))


def _answer(marker: MarkerFile, answer: str, node: str) -> StorageFailed | None:
    """On a node: look for the driver's file and write one; gives what is wrong."""
    try:
        if not _sees(marker, marker.name):
            return marker.unseen_by(node)
        _write(marker, answer)
    except StorageFailed as error:
        return StorageFailed(f"{node}: {error}")
    return None


def _problem(asked: ray.ObjectRef, node: str, deadline: float) -> StorageFailed | None:
    """What a node says is wrong; one that dies meanwhile says nothing."""
    try:
        return ray.get(asked, timeout=max(0.0, deadline - time.monotonic()))
    except GetTimeoutError:
        return StorageFailed(
            f"{node} has not said within {ANSWER_S:g} s whether it sees the files of the study; does a mount hang?"
        )
    except RayError as error:
        log.warning("%s could not say whether it sees the files of the study: %s", node, error)
        return None


def _sees(marker: MarkerFile, name: str) -> bool:
    deadline = time.monotonic() + LAG_S
    while True:
        try:
            marker.artifacts.open(name).close()
            return True
        except FileNotFoundError:
            if time.monotonic() > deadline:
                return False
        except OSError as error:
            raise storage_failure(error) from error
        time.sleep(0.2)


def _write(marker: MarkerFile, name: str) -> None:
    try:
        marker.artifacts.write(name, lambda file: file.write(name.encode()))
    except OSError as error:
        raise storage_failure(error) from error


def _remove(marker: MarkerFile, name: str) -> None:
    with suppress(OSError, RayTLError):  # a small file may stay
        marker.artifacts.remove(name)
