"""Serve a version: one immutable Serve application a version, behind a router that is switched between them.

NAME-v1, NAME-v2   deployment `Model`, not reachable from outside
router             HTTP; its `user_config` says which of them is live
"""

import asyncio
import logging
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, LoggingConfig

from ray_tl.errors import InvalidInput, NoResources, RayTLError
from ray_tl.on_ray.http_api import RETRY_AFTER_S, Answer, LiveVersion, Refusal
from ray_tl.on_ray.router import MODEL_DEPLOYMENT, Router
from ray_tl.promotion.bundle import Bundle, library_versions, load_bundle

ROUTER_APP = "router"
MAX_BATCH_SIZE = 32
BATCH_WAIT_S = 0.001
MAX_ONGOING = 2 * MAX_BATCH_SIZE
MAX_QUEUED = 4 * MAX_BATCH_SIZE
# Serve's router pauses for up to 0.5 s between attempts to place a request, while a replica idles and its queue waits.
ROUTING = RequestRouterConfig(max_backoff_s=0.05)
MAX_BODY_BYTES = 10 * 2**20
TIMEOUT_S = 120.0
SHUTDOWN_S = 5.0  # the router has drained a version before it is removed, so nothing is cut off

_QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)


@dataclass(frozen=True)
class ServedModel:
    """A version that is live, and where."""

    url: str
    name: str
    version: str


class Model:
    """A Serve deployment of one verified version; it never changes what it serves."""

    def __init__(self, folder: str, name: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._name = name
        self._bundle = load_bundle(Path(folder))
        self._batch_sizes: Counter[int] = Counter()

    async def ping(self) -> str:
        return self._bundle.version

    async def batch_sizes(self) -> dict[int, int]:
        """How many batches of each size there were."""
        return dict(self._batch_sizes)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def classify(self, images: list[bytes]) -> list[Answer | Refusal]:
        """One answer each: an image or text that can't be read is refused alone."""
        self._batch_sizes[len(images)] += 1
        return await asyncio.to_thread(self._classify, images)

    def _classify(self, images: list[bytes]) -> list[Answer | Refusal]:
        decoded = [self._decode(image) for image in images]
        readable = [pixels for pixels in decoded if not isinstance(pixels, Refusal)]
        answers = iter(self._bundle.predict_arrays(np.stack(readable)) if readable else [])
        return [each if isinstance(each, Refusal) else Answer(self._name, next(answers)) for each in decoded]

    def _decode(self, image: bytes) -> np.ndarray | Refusal:
        try:
            return self._bundle.spec.preprocessing.decode(image)
        except InvalidInput as error:
            return Refusal(str(error))


def deploy(
    bundle_folder: Path,
    name: str,
    port: int,
    host: str = "127.0.0.1",
    num_replicas: int = 1,
    num_cpus: float = 1.0,
    max_body_bytes: int = MAX_BODY_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> ServedModel:
    """Make a version live on a Ray that is initialised; what served before serves until this one answers.

    Args:
        bundle_folder: Readable at the same path on every node that may run a replica.
        num_cpus: Of each replica, and its number of torch threads.
        max_body_bytes: Of one request.
        timeout_s: For the version to become healthy; both versions run for that long.

    Raises:
        BrokenBundle: If the version is not what was promoted.
        InvalidInput: If the port is taken, or Serve listens elsewhere already, or serves another model there.
        NoResources: If the version did not become healthy in time.
    """
    bundle = load_bundle(bundle_folder.resolve())
    app = f"{name}-{bundle.version}"
    _start_serve(host, port)
    try:
        previous = _live_app(timeout_s)
        if previous is not None and _model_of(previous) != name:
            raise InvalidInput(
                f"name={name!r}: this Serve has {_model_of(previous)!r} live already, and one port serves one model; "
                "stop that one first, or serve this one on another Ray."
            )
        _run_candidate(app, _model_application(bundle, name, num_replicas, num_cpus), previous, timeout_s)
    except BaseException:
        _stop_serve_without()
        raise
    reads = bundle.spec.preprocessing.modality
    live = LiveVersion(name, bundle.version, app, bundle.spec.classes, max_body_bytes, reads)
    _run(ROUTER_APP, _router_application(live), "/", timeout_s)
    if previous not in (None, app):
        _retire(str(previous), timeout_s)
    return ServedModel(f"http://{host}:{port}", name, bundle.version)


def undeploy(name: str, timeout_s: float = TIMEOUT_S) -> None:
    """Remove a model from Serve, and Serve itself if that was all it served; Ray keeps running.

    Args:
        name: Of the model; where another one is live, nothing is removed.
        timeout_s: For the router's answer.
    """
    live = _live_app(timeout_s)
    if live is None or _model_of(live) != name:
        return
    own = {ROUTER_APP, live}
    if serve.status().applications.keys() > own:
        for app in own:
            serve.delete(app)
    else:
        _stop_serve_without(own)


def _stop_serve_without(own: Collection[str] = ()) -> None:
    """End Serve if it has no other applications than these."""
    if serve.status().applications.keys() <= set(own):
        with redirect_stdout(sys.stderr):  # Ray prints the end of Serve's controller as a failed task
            serve.shutdown()


def _model_of(app: str) -> str:
    """The model's name, from that of an application."""
    return app.rpartition("-")[0]


def serve_forever(
    bundle_folder: Path,
    name: str,
    port: int,
    ready: Callable[[ServedModel], None],
    host: str = "127.0.0.1",
    num_replicas: int = 1,
    num_cpus: float = 1.0,
) -> None:
    """Deploy, call `ready`, and block until SIGINT or SIGTERM; then stop Serve. For the main thread of a command.

    Raises:
        RayTLError: As `deploy`.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    is_live = False
    try:
        served = deploy(bundle_folder, name, port, host, num_replicas, num_cpus)
        is_live = True
        ready(served)
        while True:
            signal.pause()
    except KeyboardInterrupt:  # how both signals end the waiting
        pass
    finally:
        if is_live:
            undeploy(name)
        for number, handler in before.items():
            signal.signal(number, handler)


def _start_serve(host: str, port: int) -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if not serve.status().proxies:
        require_free_port(host, port)
        serve.start(http_options={"host": host, "port": port}, logging_config=_QUIET)
    client = _get_global_client()
    assert client is not None
    actual = client.http_config
    if (actual.host, actual.port) != (host, port):
        raise InvalidInput(
            f"port={port} on {host}: Serve listens on {actual.host}:{actual.port} already; use that, or undeploy first."
        )


def require_free_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidInput(f"port={port} on {host} can't be used ({error.strerror}); choose another.") from error


def _live_app(timeout_s: float) -> str | None:
    if ROUTER_APP not in serve.status().applications:
        return None
    return serve.get_app_handle(ROUTER_APP).live_app.remote().result(timeout_s=timeout_s)


def _model_application(bundle: Bundle, name: str, num_replicas: int, num_cpus: float) -> serve.Application:
    configured = serve.deployment(
        name=MODEL_DEPLOYMENT,
        num_replicas=num_replicas,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        request_router_config=ROUTING,
        max_constructor_retry_count=2,
        graceful_shutdown_timeout_s=SHUTDOWN_S,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options={"num_cpus": num_cpus},
        logging_config=_QUIET,
    )
    return _as_version(configured(Model), bundle.digest).bind(str(bundle.folder), name, max(1, int(num_cpus)))


def _router_application(live: LiveVersion) -> serve.Application:
    configured = serve.deployment(
        name="Router",
        max_ongoing_requests=2 * (MAX_ONGOING + MAX_QUEUED),
        max_queued_requests=MAX_QUEUED,
        backpressure_config={"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        ray_actor_options={"num_cpus": 0},
        logging_config=_QUIET,
        user_config=asdict(live),
    )
    return _as_version(configured(serve.ingress()(Router)), library_versions()["ray-tl"]).bind()


def _as_version(deployment: serve.Deployment, version: str) -> serve.Deployment:
    """Replicas of the same version are kept, and reconfigured where only `user_config` differs.

    Serve gives every `serve.run` a random version otherwise, and so restarts the replicas.
    """
    return deployment.options(version=version, _internal=True)


def _run_candidate(app: str, application: serve.Application, live_app: str | None, timeout_s: float) -> None:
    """Run a version; one that fails is removed, and what is live stays."""
    try:
        _run(app, application, None, timeout_s)
    except RayTLError:
        if app != live_app:
            serve.delete(app)
        raise


def _run(app: str, application: serve.Application, route_prefix: str | None, timeout_s: float) -> None:
    target = serve.RunTarget(application, app, route_prefix)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    deadline = time.monotonic() + timeout_s
    while (state := serve.status().applications[app]).status != ApplicationStatus.RUNNING:
        if state.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise RayTLError(f"{app} did not start: {state.message}")
        if time.monotonic() > deadline:
            raise NoResources(_waited(app, timeout_s))
        time.sleep(0.05)


def _waited(app: str, timeout_s: float) -> str:
    return (
        f"{app} did not become healthy within {timeout_s:g} s; it waits for processors, or loads slowly: "
        "ask for fewer replicas or a smaller num_cpus, or free some."
    )


def _retire(app: str, timeout_s: float) -> None:
    """Remove a version that the router has left, once its last request is answered."""
    serve.get_app_handle(ROUTER_APP).drain.remote(app).result(timeout_s=timeout_s)
    serve.delete(app)
