import asyncio
from dataclasses import dataclass

import httpx
import pytest

from ray_tl.on_ray.http_api import Answer, LiveVersion, Overloaded, Refusal, Unavailable, build_http_api
from ray_tl.promotion.prediction import Prediction

LIVE = LiveVersion("pets", "v1", "pets-v1", ("cat", "<dog>"), max_body_bytes=1000)
CAT = Answer("pets", Prediction("cat", 0.75, {"cat": 0.75, "<dog>": 0.25}, "v1"))

READ = {"GET", "HEAD"}
METHODS = [
    ("GET", "/predict", {"POST"}),
    ("OPTIONS", "/predict", {"POST"}),
    ("POST", "/healthz", READ),
    ("PUT", "/", READ),
]


@dataclass
class Echo:
    """Answers what it was built with, and keeps what it was asked."""

    outcome: Answer | Refusal | Exception = CAT
    healthy: bool = True
    live: LiveVersion = LIVE
    asked: bytes = b""

    async def classify(self, image):
        self.asked = image
        return await self._outcome()

    async def is_healthy(self):
        return self.healthy

    async def _outcome(self):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def ask(classifier, method, path, **request):
    async def once():
        transport = httpx.ASGITransport(build_http_api(classifier), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(once())


def test_answer_holds_class_confidence_probabilities_version_and_model():
    answer = ask(Echo(), "POST", "/predict", content=b"image")
    assert answer.status_code == 200
    assert answer.json() == {
        "class": "cat",
        "confidence": 0.75,
        "probabilities": {"cat": 0.75, "<dog>": 0.25},
        "version": "v1",
        "model": "pets",
    }


@pytest.mark.parametrize(
    "request_",
    [
        {"content": b"\x00image\r\n"},
        {"content": b"\x00image\r\n", "headers": {"content-type": "application/x-www-form-urlencoded"}},
        {"files": {"file": b"\x00image\r\n"}},
        {"files": {"image": b"\x00image\r\n"}, "data": {"note": "a field that is no file"}},
    ],
)
def test_image_may_be_the_body_or_the_one_file_of_a_form(request_):
    echo = Echo()
    assert ask(echo, "POST", "/predict", **request_).status_code == 200
    assert echo.asked == b"\x00image\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b""}, 400, "holds no bytes"),
        ({"files": {"file": b""}}, 400, "holds no bytes"),
        ({"files": [("file", b"a"), ("image", b"b")]}, 400, "Too many files"),
        ({"data": {"note": "x"}, "files": {"f": (None, b"a field")}}, 400, "has 0 files"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "Missing boundary"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "can't be read"),
        ({"content": b"x" * 1001}, 413, "over the limit of 1000 bytes"),
        ({"files": {"file": b"x" * 1000}}, 413, "over the limit of 1000 bytes"),
    ],
)
def test_wrong_input_is_refused_with_its_reason(request_, status, reason):
    answer = ask(Echo(), "POST", "/predict", **request_)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


def test_a_body_of_exactly_the_limit_is_taken():
    assert ask(Echo(), "POST", "/predict", content=b"x" * 1000).status_code == 200


def test_a_body_without_a_length_is_read_only_up_to_the_limit():
    read = []

    async def endless():
        for number in range(1000):
            read.append(number)
            yield b"x" * 100

    answer = ask(Echo(), "POST", "/predict", content=endless())
    assert answer.status_code == 413
    assert len(read) <= 12


@pytest.mark.parametrize(
    ("outcome", "status", "reason", "retry_after"),
    [
        (Refusal("not a readable image"), 415, "not a readable image", None),
        (Overloaded(), 429, "too many requests wait", "1"),
        (Unavailable("does not answer"), 503, "does not answer", "1"),
        (ZeroDivisionError(), 500, "its log says why", None),
    ],
)
def test_what_goes_wrong_behind_has_a_status_of_its_own(outcome, status, reason, retry_after):
    answer = ask(Echo(outcome), "POST", "/predict", content=b"image")
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert answer.headers.get("retry-after") == retry_after


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_wrong_method_is_told_the_right_one(method, path, allowed):
    answer = ask(Echo(), method, path)
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, allowed)
    assert "POST an example to /predict" in answer.json()["error"]


def test_head_where_nothing_can_be_read_is_refused_without_a_body():
    answer = ask(Echo(), "HEAD", "/predict")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


def test_unknown_path_is_told_what_there_is():
    answer = ask(Echo(), "GET", "/predictions")
    assert (answer.status_code, answer.json()["error"][:27]) == (404, "there is nothing at /predic")


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
def test_health_is_that_of_the_live_version(healthy, status):
    answer = ask(Echo(healthy=healthy), "GET", "/healthz")
    assert answer.status_code == status
    assert answer.json()["version"] == "v1"


@pytest.mark.parametrize("path", ["/", "/healthz"])
@pytest.mark.parametrize("healthy", [True, False])
def test_head_is_answered_as_get_without_the_body(path, healthy):
    """RFC 9110, 9.3.2."""
    head, get = (ask(Echo(healthy=healthy), method, path) for method in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers == get.headers


def test_page_tells_a_person_how_to_ask_and_escapes_class_names():
    answer = ask(Echo(), "GET", "/")
    assert answer.headers["content-type"].startswith("text/html")
    assert 'action="predict"' in answer.text
    assert "cat, &lt;dog&gt;" in answer.text
