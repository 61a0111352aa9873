"""Clusters on this machine that tests may grow and break."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HEAD = "ray.head.default"
AUTHENTICATION = "RAY_AUTH_MODE"
# What Ray's own `AutoscalingCluster` writes for its provider of nodes that are processes of this machine; that class
# itself ends every Ray of the machine when it starts, and lacks its template in the wheel.
EMPTY: dict[str, object] = {
    "auth": {},
    "docker": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}


@contextmanager
def autoscaling_cluster(workers: Mapping[str, object], idle_s: float = 15) -> Iterator[str]:
    """A head without processors, and an autoscaler that starts workers of one kind when they are asked for.

    Args:
        workers: `resources` and `max_workers` of the kind.
        idle_s: A worker that has nothing to do for so long goes.
    """
    folder, port = Path(tempfile.mkdtemp(prefix="rt")), free_port()
    config = {
        "cluster_name": "fake",
        "max_workers": 8,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{own_address()}:{port}",
        },
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"node_config": {}, "min_workers": 0, **workers},
        },
        **EMPTY,
    }
    file = folder / "autoscaler.json"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=0"]
    command += [f"--autoscaling-config={file}", f"--temp-dir={folder}", "--include-dashboard=false"]
    fast = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    try:
        subprocess.run(command, check=True, env={**os.environ, **fast}, stdout=subprocess.DEVNULL, timeout=120)
        yield f"{own_address()}:{port}"
    finally:
        end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


def end_processes_of(folder: Path) -> None:
    """Kill all whose command line names this folder, as those of a Ray that has its files there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()):
                found.append(process)
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=30)


def own_address() -> str:
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def head_node(num_cpus: int) -> Iterator[tuple[str, Path]]:
    """A cluster of one node in processes of its own; gives its address, and the folder by which they are found."""
    folder, port = Path(tempfile.mkdtemp(prefix="rt")), free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}"]
    command += [f"--num-cpus={num_cpus}", f"--temp-dir={folder}", "--include-dashboard=false"]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
        yield f"{own_address()}:{port}", folder
    finally:
        end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def blind_node(address: str, hidden: Path, num_cpus: int) -> Iterator[None]:
    """A node more, on which a folder is empty and not that of the other nodes; it ends with the cluster.

    Args:
        address: Of a cluster as of `head_node`.
        hidden: The folder.
        num_cpus: Of the node.
    """
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", f"--num-cpus={num_cpus}"]
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
    subprocess.run([*hide, *join], check=True, stdout=subprocess.DEVNULL, timeout=120)
    yield
