"""Where actors go, and how many slots a cluster has room for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from ray.train import ScalingConfig

NODE_LABEL = "ray.io/node-id"
Resources = Mapping[str, float]


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

    @property
    def bundle(self) -> dict[str, float]:
        """What one worker takes."""
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return {"CPU": self.cpus_per_worker, **gpus}

    def fits(self, nodes: Sequence[Resources]) -> int:
        """How many slots of this shape go on nodes with so much free; a worker is on one node, a slot may be on many.

        Of a GPU that is shared, whole parts are counted: two GPUs hold four workers of 0.4.
        """
        return sum(self._workers_on(node) for node in nodes) // self.workers

    def share_of(self, total: Resources) -> float:
        """The larger of a slot's shares of a cluster's processors and of its GPUs."""
        shares = [need * self.workers / total[name] for name, need in self.bundle.items() if total.get(name)]
        return max(shares, default=1.0)

    def scaling(self) -> "ScalingConfig":
        from ray.train import ScalingConfig  # takes half a second, which a node that is asked something does without

        return ScalingConfig(
            num_workers=self.workers, use_gpu=self.gpus_per_worker > 0, resources_per_worker=self.bundle
        )

    def _workers_on(self, free: Resources) -> int:
        counts = [_floor(free.get("CPU", 0.0) / self.cpus_per_worker)]
        if self.gpus_per_worker >= 1:
            counts.append(_floor(free.get("GPU", 0.0) / self.gpus_per_worker))
        elif self.gpus_per_worker:
            gpus, a_gpu = free.get("GPU", 0.0), _floor(1 / self.gpus_per_worker)
            counts.append(math.floor(gpus) * a_gpu + _floor((gpus - math.floor(gpus)) / self.gpus_per_worker))
        return min(counts)


def free_resources() -> list[Resources]:
    """What is free on each node that is up."""
    from ray._private.state import available_resources_per_node

    return list(available_resources_per_node().values())


def total_resources() -> list[Resources]:
    """What each node that is up has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def dead_nodes() -> list[str]:
    """Ids of the nodes that the cluster has lost."""
    return [node["NodeID"] for node in ray.nodes() if not node["Alive"]]


def on_this_node() -> dict[str, str]:
    """Label selector for actors that should live and die with this process's node."""
    return {NODE_LABEL: ray.get_runtime_context().get_node_id()}


def _floor(value: float) -> int:
    return math.floor(value + 1e-6)
