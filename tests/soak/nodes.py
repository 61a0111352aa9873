"""A Ray cluster of several nodes on this machine, of which each can be killed as a whole."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from ray_tl.on_ray.head import answers
from tests.on_ray.clusters import AUTHENTICATION, free_port

START_S = 180.0
# What `ray start` gives nodes by default is one range of ports and one port of the agent for all of a machine.
PORTS = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
WORKER, CLIENT, QUEUE = "ray::RayTrainWorker", "ray::ResourceTrainable", "ray::TrialQueue"
OF_SEARCHES = (WORKER, CLIENT, QUEUE, "ray::ClientTrial", "ray::TrainController", "ray::Shares")


class Node:
    """One node: the command `ray start --block`, and all that descends from it.

    Args:
        arguments: Of `ray start`.
    """

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *PORTS, *arguments]
        environment = {**os.environ, AUTHENTICATION: "disabled"}
        self._block = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def is_up(self) -> bool:
        return self._block.poll() is None

    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._block.pid)
            return [root, *root.children(recursive=True)]
        return []

    def kill(self) -> None:
        """End all its processes at once, as a machine that loses its power does."""
        kill_all(self.processes())
        self._block.wait()


class SmallCluster:
    """A head and workers with one processor each; a context that ends them.

    Args:
        num_workers: Nodes beside the head.
    """

    def __init__(self, num_workers: int) -> None:
        self._folder, self._port = Path(tempfile.mkdtemp(prefix="rt")), free_port()
        self._num_workers = num_workers
        self.head, self.workers = Node("--head", *self._of_head()), list[Node]()

    def __enter__(self) -> "SmallCluster":
        try:
            until(lambda: answers(("127.0.0.1", self._port)), START_S, "the head of the cluster answers")
            self.workers = [self._worker() for _ in range(self._num_workers)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in (*self.workers, self.head):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def replace(self, worker: int) -> None:
        """Kill a worker node and start another one."""
        self.workers[worker].kill()
        self.workers[worker] = self._worker()

    def named(self, *titles: str) -> list[psutil.Process]:
        """Processes whose titles begin so, on all nodes."""
        found = []
        for process in (process for node in (self.head, *self.workers) for process in node.processes()):
            with suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(titles):
                    found.append(process)
        return found

    def _of_head(self) -> list[str]:
        return [f"--port={self._port}", f"--temp-dir={self._folder}", "--include-dashboard=false"]

    def _worker(self) -> Node:
        return Node(f"--address={self.address}")


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def until(holds: Callable[[], object], limit_s: float, what: str) -> None:
    """Wait.

    Raises:
        TimeoutError: If it does not hold in time.
    """
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {limit_s:g} s: {what}")
        time.sleep(0.1)
