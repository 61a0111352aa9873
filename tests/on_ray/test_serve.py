"""One real Ray with Serve on it, asked over HTTP."""

import io
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import ray
import torch
from PIL import Image
from ray import serve

from ray_tl.config import Component, TrialConfig
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import BrokenBundle, InvalidInput, NoResources
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.transfer_model import build_transfer_model
from ray_tl.on_ray.serve_app import MAX_ONGOING, MAX_QUEUED, ServedModel, deploy, undeploy
from ray_tl.promotion.bundle import SPEC, Bundle, Lineage, ModelSpec, load_bundle, write_bundle

pytestmark = pytest.mark.ray

SMALL = Component(name="small_cnn", params={"width": 4})
MODEL = ModelSpec(backbone=SMALL, preprocessing=Preprocessing(image_size=32), classes=("cat", "dog", "eel"))


@dataclass
class Session:
    served: ServedModel
    bundles: dict[str, Bundle]
    port: int

    def deploy(self, version: str, **options) -> ServedModel:
        return deploy(self.bundles[version].folder, "pets", self.port, **options)


@dataclass
class Caller:
    """Asks for the same image, one request after the other with a short pause, until told to stop."""

    url: str
    answers: list[httpx.Response] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self):
        with httpx.Client(timeout=60) as client:
            while not self.stop.is_set():
                self.answers.append(client.post(f"{self.url}/predict", content=png(0)))
                time.sleep(0.02)  # more load than that takes the processors from what is promoted


@contextmanager
def calls(url: str, num_callers: int = 1) -> Iterator[list[Caller]]:
    callers = [Caller(url) for _ in range(num_callers)]
    threads = [threading.Thread(target=caller.run) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        for caller, thread in zip(callers, threads, strict=True):
            caller.stop.set()
            thread.join()


def kill_replica(app: str) -> None:
    """Kill the one worker that holds the application's replica, as a machine that fails would."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    (replica,) = [actor for actor in actors if actor["name"].startswith(f"SERVE_REPLICA::{app}#")]
    ray.kill(ray.get_actor(**replica))


@contextmanager
def replica_that_stands_still(app: str) -> Iterator[None]:
    """Stop the process of the application's one replica, so that what is asked of it waits."""
    processes = psutil.Process().children(recursive=True)
    (replica,) = [each for each in processes if each.cmdline()[0].startswith(f"ray::ServeReplica:{app}:")]
    replica.suspend()
    try:
        yield
    finally:
        replica.resume()


def png(seed: int) -> bytes:
    return encoded(np.random.default_rng(seed).integers(0, 256, (36, 40, 3), dtype=np.uint8))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def written(root: Path, version: int) -> Bundle:
    torch.manual_seed(version)
    lineage = Lineage(
        study="pets",
        trial=version,
        config=TrialConfig(backbone=SMALL),
        data_fingerprint="ab",
        scores={},
        created_at="2026-01-02T03:04:05+00:00",
        libraries={},
    )
    model = build_transfer_model(SMALL, MODEL.num_classes, BackboneContext(load_weights=False))
    return load_bundle(write_bundle(root / "pets" / f"v{version}", model, MODEL, lineage))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_right(answer: httpx.Response, image: bytes, session: Session) -> None:
    body = answer.json()
    expected = session.bundles[body["version"]].predict_images([image])[0]
    assert body["class"] == expected.label
    assert body["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    bundles = {f"v{number}": written(root, number) for number in (1, 2)}
    ray_folder = tempfile.mkdtemp(prefix="rt")
    port = free_port()
    ray.init(num_cpus=2, _temp_dir=ray_folder, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield Session(deploy(bundles["v1"].folder, "pets", port), bundles, port)
    finally:
        undeploy("pets")
        ray.shutdown()
        shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.fixture
def client(session):
    with httpx.Client(base_url=session.served.url, timeout=60) as client:
        yield client


def test_answer_equals_the_local_prediction(session, client):
    answer = client.post("/predict", files={"file": png(3)})
    assert answer.status_code == 200
    assert_right(answer, png(3), session)
    assert answer.json()["model"] == "pets"


def test_requests_at_the_same_time_share_batches_and_get_their_own_answers(session, client):
    images = [png(seed) for seed in range(64)]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda image: client.post("/predict", content=image), images))
    for answer, image in zip(answers, images, strict=True):
        assert_right(answer, image, session)
    app = f"pets-{answers[0].json()['version']}"
    sizes = serve.get_deployment_handle("Model", app).batch_sizes.remote().result()
    assert max(sizes) > 1  # how much more depends on the load of the machine


def test_a_bad_image_does_not_fail_its_neighbours(session, client):
    bodies = [png(seed) if seed % 2 else b"no image" for seed in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: client.post("/predict", content=body), bodies))
    assert [answer.status_code for answer in answers] == [415, 200] * 8
    for seed in range(1, 16, 2):
        assert_right(answers[seed], bodies[seed], session)


@pytest.mark.parametrize(
    ("method", "request_", "status", "reason"),
    [
        ("POST", {"content": b""}, 400, "holds no bytes"),
        ("POST", {"content": b"\x89PNG\r\n\x1a\n"}, 415, "not a readable image"),
        ("POST", {"content": bytes(11 * 2**20)}, 413, "over the limit of 10485760 bytes"),
        ("POST", {"content": iter([bytes(2**20)] * 11)}, 413, "over the limit of 10485760 bytes"),
        ("POST", {"files": [("a", b"a"), ("b", b"b")]}, 400, "Too many files"),
        ("GET", {}, 405, "does not take GET"),
    ],
)
def test_wrong_input_is_refused_with_its_reason(client, method, request_, status, reason):
    answer = client.request(method, "/predict", **request_)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


def test_health_and_page_name_the_live_version(client):
    assert client.get("/healthz").json()["status"] == "ok"
    assert "<h1>pets v" in client.get("/").text


def test_a_full_queue_is_answered_429_with_a_time_to_come_back_and_nothing_in_it_is_lost(session, client):
    live = client.get("/healthz").json()["version"]
    room = MAX_ONGOING + MAX_QUEUED
    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=client.base_url, timeout=60, limits=limits) as many,
        ThreadPoolExecutor(2 * room) as pool,
    ):
        with replica_that_stands_still(f"pets-{live}"):
            asked = [pool.submit(many.post, "/predict", content=png(0)) for _ in range(2 * room)]
            first = next(as_completed(asked, timeout=60)).result()
        answers = [each.result() for each in asked]
    assert first.status_code == 429
    assert {answer.status_code for answer in answers} == {200, 429}
    assert {answer.headers["retry-after"] for answer in answers if answer.status_code == 429} == {"1"}
    assert sum(answer.status_code == 200 for answer in answers) >= room


def test_a_version_that_can_not_start_leaves_the_live_one_alone(session, client):
    live = client.get("/healthz").json()["version"]
    (other,) = {"v1", "v2"} - {live}
    with pytest.raises(NoResources, match=f"pets-{other} did not become healthy within 3 s"):
        session.deploy(other, num_cpus=8, timeout_s=3)
    assert client.post("/predict", content=png(0)).json()["version"] == live
    assert set(serve.status().applications) == {"router", f"pets-{live}"}


def test_a_broken_version_is_refused_before_anything_changes(session, client, tmp_path):
    folder = shutil.copytree(session.bundles["v2"].folder, tmp_path / "v3")
    (folder / SPEC).write_text("{}")
    with pytest.raises(BrokenBundle, match=r"model\.json has"):
        deploy(folder, "pets", session.port)
    assert client.get("/healthz").status_code == 200


def test_another_port_than_the_one_in_use_is_refused(session):
    with pytest.raises(InvalidInput, match=f"Serve listens on 127.0.0.1:{session.port} already"):
        deploy(session.bundles["v1"].folder, "pets", free_port())


def test_promotion_under_load_fails_no_request_and_changes_the_version_once(session, client):
    session.deploy("v1")
    with calls(session.served.url, num_callers=4) as callers:
        promoted = session.deploy("v2")
    assert promoted.version == "v2"
    for caller in callers:
        assert {answer.status_code for answer in caller.answers} == {200}
        versions = [answer.json()["version"] for answer in caller.answers]
        assert [version for version, _ in groupby(versions)] == ["v1", "v2"]
    assert set(serve.status().applications) == {"router", "pets-v2"}


@pytest.mark.parametrize("app", ["pets-{version}", "router"])
def test_a_killed_replica_comes_back_with_the_version_that_was_live(session, client, app):
    live = client.post("/predict", content=png(0)).json()["version"]
    with calls(session.served.url) as (caller,):
        wait_until(lambda: len(caller.answers) > 5)
        kill_replica(app.format(version=live))
        wait_until(lambda: client.get("/healthz").status_code == 200)
    answered = [answer for answer in caller.answers if answer.status_code == 200]
    assert {answer.json()["version"] for answer in answered} == {live}
    assert answered[-1] is caller.answers[-1]


@serve.deployment
class Neighbour:
    """Somebody else's application."""

    def __call__(self) -> str:
        return "here"


def test_what_is_refused_or_stopped_touches_only_its_own_application(session, client):
    serve.run(Neighbour.bind(), name="neighbour", route_prefix="/neighbour")
    with pytest.raises(InvalidInput, match=r"name='cats': this Serve has 'pets' live already"):
        deploy(session.bundles["v1"].folder, "cats", session.port)
    undeploy("cats")
    assert client.post("/predict", content=png(0)).status_code == 200
    undeploy("pets")
    assert set(serve.status().applications) == {"neighbour"}
    assert serve.get_app_handle("neighbour").remote().result() == "here"
    serve.delete("neighbour")
