"""A Ray session for one command: local, or on a cluster that is up."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import ray

from ray_tl.errors import NoResources
from ray_tl.on_ray.cluster_file import ClusterConfig, secure_auth_token
from ray_tl.on_ray.head import answers

# Train looks for finished or broken workers this often; Tune's own files and tables would repeat the study store.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}
# Below the processes of Ray itself, which must answer in time; at Ray's own 15 a compiler on the same cores would stop
# a search altogether.
WORKER_NICENESS = 5


@contextmanager
def ray_session(cluster: ClusterConfig, dashboard: bool = True) -> Iterator[str | None]:
    """Start or join Ray, and leave it as it was found; gives the address of its dashboard.

    Args:
        cluster: Where to run. Without an address a local Ray is started and stopped again.
        dashboard: Whether a local Ray gets one.

    Raises:
        NoResources: If the cluster can't be reached.
    """
    if ray.is_initialized():
        yield _dashboard_url()
        return
    environment = {**ENVIRONMENT, **cluster.env}
    os.environ.update(environment)
    try:
        _start(cluster, environment, dashboard)
    except Exception as error:  # a start that takes too long is a bare one
        with redirect_stdout(sys.stderr):
            ray.shutdown()
        raise NoResources(_not_started(cluster, error)) from error
    try:
        yield _dashboard_url()
    finally:
        with redirect_stdout(sys.stderr):  # Ray's last words are no output of the command
            ray.shutdown()


def _not_started(cluster: ClusterConfig, error: Exception) -> str:
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if cluster.address is None:
        return f"Ray does not start on this machine ({said}); is it busy, or short of memory or of disk? Try again."
    unreachable = f"address={cluster.address!r} can't be reached ({said})"
    if _listens(cluster.address) is False:
        return f"{unreachable}; is the cluster up?"
    return (
        f"{unreachable}; does the cluster want a token? Then set RAY_AUTH_MODE=token, and copy the head's "
        f"~/.ray/auth_token here or put its token into $RAY_AUTH_TOKEN. Its Ray must be {ray.__version__}, as here."
    )


def _listens(address: str) -> bool | None:
    """Whether somebody listens at `host:port`; `None` for another kind of address."""
    host, _, port = address.rpartition(":")
    return answers((host.strip("[]"), int(port))) if host and port.isdigit() and "/" not in host else None


def _start(cluster: ClusterConfig, environment: dict[str, str], dashboard: bool) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if cluster.address is not None:
        if _listens(cluster.address) is False:
            raise ConnectionError("nobody listens there")  # Ray would take 20 s to say so
        ray.init(address=cluster.address, runtime_env={"env_vars": environment}, **quiet)
        return
    secure_auth_token()
    ray.init(
        address="local",
        num_cpus=cluster.num_cpus,
        num_gpus=cluster.num_gpus,
        include_dashboard=dashboard,
        _system_config={"worker_niceness": WORKER_NICENESS},
        **quiet,
    )


def _dashboard_url() -> str | None:
    url = ray.worker.global_worker.node.webui_url if ray.worker.global_worker.node else None
    return f"http://{url}" if url else None
