"""What people send over HTTP and what they get: requests to image bytes, answers and refusals to JSON.

    POST /predict   an image, as the body or as the one file of a form   {"class", "confidence", "probabilities", ...}
    GET  /healthz   200 while the live version answers, 503 otherwise
    GET  /          how to use it, for a person

Every refusal is `{"error": reason}`. No Ray in here: a `Classifier` stands for all that is behind.
"""

import html
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from ray_tl.promotion.prediction import Prediction

RETRY_AFTER_S = 1


class Overloaded(Exception):
    """More requests wait than the live version may have waiting."""


class Unavailable(Exception):
    """The live version does not answer."""


@dataclass(frozen=True)
class LiveVersion:
    """What serves now.

    Attributes:
        app: Name of its Serve application.
        max_body_bytes: Of one request.
    """

    model: str
    version: str
    app: str
    classes: tuple[str, ...]
    max_body_bytes: int


@dataclass(frozen=True)
class Answer:
    """A prediction, and the name of the model that made it."""

    model: str
    prediction: Prediction


@dataclass(frozen=True)
class Refusal:
    """Why there is no prediction for these bytes."""

    reason: str


class Classifier(Protocol):
    """All that the HTTP side knows of what is behind it."""

    @property
    def live(self) -> LiveVersion:
        """What serves now."""

    async def classify(self, image: bytes) -> Answer | Refusal:
        """Answer for one encoded image; raises `Overloaded` or `Unavailable`."""

    async def is_healthy(self) -> bool:
        """Whether the live version answers."""


def build_http_api(classifier: Classifier) -> FastAPI:
    """The routes in front of a classifier."""
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    api.add_exception_handler(HTTPException, _refused)
    api.add_exception_handler(Exception, _failed)

    @api.post("/predict")
    async def predict(request: Request) -> Response:
        return await _predict(classifier, request)

    @api.get("/healthz")
    async def healthz() -> Response:
        return await _health(classifier)

    @api.get("/")
    async def page() -> Response:
        return HTMLResponse(_page(classifier.live))

    return api


async def _predict(classifier: Classifier, request: Request) -> Response:
    image = await _image_of(request, classifier.live.max_body_bytes)
    try:
        answer = await classifier.classify(image)
    except Overloaded:
        raise HTTPException(429, "too many requests wait; try again.", {"Retry-After": str(RETRY_AFTER_S)}) from None
    except Unavailable as error:
        raise HTTPException(503, str(error), {"Retry-After": str(RETRY_AFTER_S)}) from None
    if isinstance(answer, Refusal):
        raise HTTPException(415, answer.reason)
    return JSONResponse(_body(answer))


def _body(answer: Answer) -> dict[str, object]:
    prediction = answer.prediction
    return {
        "class": prediction.label,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        "version": prediction.version,
        "model": answer.model,
    }


async def _health(classifier: Classifier) -> Response:
    live, healthy = classifier.live, await classifier.is_healthy()
    status = "ok" if healthy else "the live version does not answer"
    return JSONResponse(
        {"status": status, "model": live.model, "version": live.version}, status_code=200 if healthy else 503
    )


async def _image_of(request: Request, max_bytes: int) -> bytes:
    body = await _read(request, max_bytes)
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    image = await _only_file(request, body) if is_form else body
    if not image:
        raise HTTPException(400, "the request holds no bytes; send an image as the body, or as the file of a form.")
    return image


async def _read(request: Request, max_bytes: int) -> bytes:
    """The body, given up as soon as it is known to be too long."""
    stated = request.headers.get("content-length", "")
    _require_within(int(stated) if stated.isdecimal() else 0, max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        _require_within(len(body) + len(chunk), max_bytes)
        body += chunk
    return bytes(body)


def _require_within(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise HTTPException(413, f"the request is over the limit of {max_bytes} bytes; send a smaller image.")


async def _only_file(request: Request, body: bytes) -> bytes:
    parser = MultiPartParser(request.headers, _once(body), max_files=1)
    parser.spool_max_size = len(body) + 1  # in memory: the length has been checked
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form can't be read ({error}); send one image as its file.") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(files) != 1:
        raise HTTPException(400, f"the form has {len(files)} files; send one image as its file.")
    return await files[0].read()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    ours = {
        404: f"there is nothing at {request.url.path}; POST an image to /predict.",
        405: f"{request.url.path} does not take {request.method}; POST an image to /predict, GET /healthz and /.",
    }
    reason = ours.get(error.status_code, error.detail)
    return JSONResponse({"error": reason}, status_code=error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why."}, status_code=500)


def _page(live: LiveVersion) -> str:
    classes = ", ".join(html.escape(name) for name in live.classes)
    title = html.escape(f"{live.model} {live.version}")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font-family: sans-serif; max-width: 40em; margin: 3em auto">
<h1>{title}</h1>
<p>Tells apart: {classes}.</p>
<form action="predict" method="post" enctype="multipart/form-data">
<input type="file" name="file" accept="image/*" required> <button>Predict</button>
</form>
<p>From a shell, either of:</p>
<pre>curl -F file=@image.jpg        URL/predict
curl --data-binary @image.jpg  URL/predict</pre>
<p>PNG, JPEG, WebP, GIF or BMP, at most {live.max_body_bytes / 2**20:g} MiB. <a href="healthz">Health</a>.</p>
</body></html>
"""
