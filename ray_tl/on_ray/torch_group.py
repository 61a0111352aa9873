"""The process group of a slot's workers, set up without torch in the controller, which starts seconds earlier so."""

import os
from dataclasses import dataclass
from datetime import timedelta

import ray
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

CLOSING_S = 30.0
COLLECTIVE_S = 1800.0  # the longest that one rank waits for another


@dataclass
class TorchGroup(BackendConfig):
    """What `ray.train.torch.TorchConfig` does, whose module imports torch wherever it is unpickled.

    Attributes:
        backend: Of `torch.distributed`: `gloo` or `nccl`.
    """

    backend: str = "gloo"

    @property
    def backend_cls(self) -> type[Backend]:
        return _TorchBackend


class _TorchBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchGroup) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_join, address, port, backend_config.backend)

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: TorchGroup) -> None:
        ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=CLOSING_S)


def _join(address: str, port: int, backend: str) -> None:
    """In each worker: the variables of torchrun, and the group."""
    import torch.distributed as dist

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    os.environ.update(
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
    )
    if "TORCH_NCCL_BLOCKING_WAIT" not in os.environ:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a lost rank ends the others, too
    dist.init_process_group(backend, "env://", timedelta(seconds=COLLECTIVE_S), rank=rank, world_size=size)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()
