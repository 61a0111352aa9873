"""What people send over HTTP and what they get: answers and refusals as JSON.

    POST /predict   an image, as the body or as the one file of a form   {"class", "confidence", "probabilities", ...}
                    or a text, as the body, or as JSON {"text": ...}     the same
                    or texts, as JSON {"texts": [...]}                   {"predictions": [the same of each]}
    GET  /healthz   200 while the live version answers, 503 otherwise
    GET  /          how to use it, for a person

HEAD answers as GET does, without the body. A body that is a JSON object counts as JSON whatever its content type, as
`curl -d` states another one; as `text/plain` it is a text.
Every refusal is `{"error": reason}`. No Ray in here: a `Classifier` stands for all that is behind.
"""

import asyncio
import html
from dataclasses import dataclass
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from ray_tl.data.formats import READ_FORMATS_IN_WORDS
from ray_tl.on_ray.http_inputs import MAX_CHARACTERS, image_of, texts_of
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
        modality: Of what it reads: `images` or `text`.
    """

    model: str
    version: str
    app: str
    classes: tuple[str, ...]
    max_body_bytes: int
    modality: str = "images"


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
        """Answer for one encoded image, or text in UTF-8; raises `Overloaded` or `Unavailable`."""

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

    @api.api_route("/healthz", methods=["GET", "HEAD"])
    async def healthz(request: Request) -> Response:
        return _as_asked(request, await _health(classifier))

    @api.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _as_asked(request, HTMLResponse(_page(classifier.live)))

    return api


def _as_asked(request: Request, response: Response) -> Response:
    """With the headers alone for HEAD, its length among them (RFC 9110, 9.3.2)."""
    if request.method == "HEAD":
        response.body = b""
    return response


async def _predict(classifier: Classifier, request: Request) -> Response:
    live = classifier.live
    if live.modality == "images":
        return JSONResponse(_body(await _answer(classifier, await image_of(request, live.max_body_bytes))))
    texts, is_list = await texts_of(request, live.max_body_bytes)
    answers = await asyncio.gather(*(_answer(classifier, text.encode()) for text in texts))
    bodies = [_body(answer) for answer in answers]
    return JSONResponse({"predictions": bodies} if is_list else bodies[0])


async def _answer(classifier: Classifier, example: bytes) -> Answer:
    try:
        answer = await classifier.classify(example)
    except Overloaded:
        raise HTTPException(429, "too many requests wait; try again.", {"Retry-After": str(RETRY_AFTER_S)}) from None
    except Unavailable as error:
        raise HTTPException(503, str(error), {"Retry-After": str(RETRY_AFTER_S)}) from None
    if isinstance(answer, Refusal):
        raise HTTPException(415, answer.reason)
    return answer


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


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    ours = {
        404: f"there is nothing at {request.url.path}; POST an example to /predict.",
        405: f"{request.url.path} does not take {request.method}; POST an example to /predict, GET /healthz and /.",
    }
    reason = ours.get(error.status_code, error.detail)
    return _as_asked(request, JSONResponse({"error": reason}, status_code=error.status_code, headers=error.headers))


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
{_images_part(live) if live.modality == "images" else _TEXT_PART}
<a href="healthz">Health</a>.</p>
</body></html>
"""


def _images_part(live: LiveVersion) -> str:
    return f"""<form action="predict" method="post" enctype="multipart/form-data">
<input type="file" name="file" accept="image/*" required> <button>Predict</button>
</form>
<p>From a shell, either of:</p>
<pre>curl -F file=@image.jpg        URL/predict
curl --data-binary @image.jpg  URL/predict</pre>
<p>{READ_FORMATS_IN_WORDS}, at most {live.max_body_bytes / 2**20:g} MiB."""


_TEXT_PART = f"""<form action="predict" method="post">
<textarea name="text" rows="5" cols="60" maxlength="{MAX_CHARACTERS}" required></textarea> <button>Predict</button>
</form>
<p>From a shell, either of:</p>
<pre>curl -d 'A text.'  URL/predict
curl -H 'content-type: application/json' -d '{{"texts": ["One.", "Another."]}}'  URL/predict</pre>
<p>At most {MAX_CHARACTERS} characters a text."""
