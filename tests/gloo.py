"""Run a function on several ranks of a real gloo process group."""

import multiprocessing
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

# Ranks are forked from one process that has imported what takes seconds to import, and has done nothing else.
multiprocessing.set_forkserver_preload(
    ["ray_tl.training.loop", "torch._dynamo", "ot", "peft", "sklearn.ensemble", "pytest", "hypothesis"]
)


def run_on_ranks(function: Callable, world_size: int, *args: object) -> list:
    """Result of `function(*args)` on each rank, by rank.

    Args:
        function: At the top level of an importable module; gives tensors, numbers, strings, lists or dicts of them.
        world_size: Processes to start.
        args: Picklable; the same for every rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _run_one, args=(function, world_size, folder, args), nprocs=world_size, start_method="forkserver"
        )
        return [torch.load(_result(folder, rank), weights_only=True) for rank in range(world_size)]


def _run_one(rank: int, function: Callable, world_size: int, folder: str, args: tuple) -> None:
    torch.set_num_threads(1)
    meeting_point = f"file://{folder}/meeting_point"
    dist.init_process_group("gloo", meeting_point, timedelta(seconds=60), world_size, rank)
    try:
        torch.save(function(*args), _result(folder, rank))
    finally:
        dist.destroy_process_group()


def _result(folder: str, rank: int) -> Path:
    return Path(folder) / f"result_{rank}.pt"
