"""From an HTTP request to what a model reads: the bytes of one image, or texts in UTF-8."""

import json
from collections.abc import AsyncGenerator
from urllib.parse import parse_qs

from fastapi import Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

MAX_TEXTS = 64
MAX_CHARACTERS = 100_000
SEND_IMAGE = "send an image as the body, or as the file of a form."
SEND_TEXT = 'send {"text": "..."} or {"texts": ["...", ...]} as JSON, or a text as the body.'
FORM, FIELDS, JSON = "multipart/form-data", "application/x-www-form-urlencoded", "application/json"


async def image_of(request: Request, max_bytes: int) -> bytes:
    """The image, as the body or as the one file of a form.

    Raises:
        HTTPException: 400 for none or several, 413 for too many bytes, 415 for a text.
    """
    body = await _read(request, max_bytes)
    kind = _kind(request)
    if kind == JSON or kind.startswith("text/"):
        raise HTTPException(415, f"this model reads images, not {kind}; {SEND_IMAGE}")
    image = await _only_file(request, body) if kind == FORM else body
    if not image:
        raise HTTPException(400, f"the request holds no bytes; {SEND_IMAGE}")
    return image


async def texts_of(request: Request, max_bytes: int) -> tuple[list[str], bool]:
    """The texts, and whether they were sent as a list.

    Raises:
        HTTPException: 400 for none, an empty one, or a body that can't be parsed; 413 for too long a text or too many;
            415 for what is no text.
    """
    body = await _read(request, max_bytes)
    texts, is_list = await _parsed(request, body)
    where = [f"texts[{number}]" if is_list else "the text" for number in range(len(texts))]
    if len(texts) > MAX_TEXTS:
        raise HTTPException(413, f"the request holds {len(texts)} texts, over the limit of {MAX_TEXTS}; send fewer.")
    for name, text in zip(where, texts, strict=True):
        if not text.strip():
            raise HTTPException(400, f"{name} is empty; {SEND_TEXT}")
        if len(text) > MAX_CHARACTERS:
            raise HTTPException(413, f"{name} is over the limit of {MAX_CHARACTERS} characters; send a shorter one.")
    return texts, is_list


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _parsed(request: Request, body: bytes) -> tuple[list[str], bool]:
    kind = _kind(request)
    if kind == JSON:
        return _from_json(body)
    if kind == FORM:
        return [await _text_field(request, body)], False
    text = _decoded(body, kind)
    if kind == FIELDS:  # a form of a page, or what `curl -d` sends, whatever it is
        return parse_qs(text, keep_blank_values=True).get("text", [text])[:1], False
    return [text], False


def _decoded(body: bytes, kind: str) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        stated = f"{kind}, not text" if kind else "no text in UTF-8"
        raise HTTPException(415, f"this model reads texts, and this is {stated}; {SEND_TEXT}") from None


def _from_json(body: bytes) -> tuple[list[str], bool]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON ({error}); {SEND_TEXT}") from error
    if isinstance(content, dict) and set(content) == {"text"} and isinstance(content["text"], str):
        return [content["text"]], False
    texts = content.get("texts") if isinstance(content, dict) and set(content) == {"texts"} else None
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return texts, True
    raise HTTPException(400, f"the JSON holds neither a text nor a list of texts alone; {SEND_TEXT}")


async def _text_field(request: Request, body: bytes) -> str:
    text = (await _form(request, body)).get("text")
    if not isinstance(text, str):
        raise HTTPException(415, f"this model reads texts, and the form has no field 'text'; {SEND_TEXT}")
    return text


async def _only_file(request: Request, body: bytes) -> bytes:
    form = await _form(request, body)
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(files) != 1:
        raise HTTPException(400, f"the form has {len(files)} files; send one image as its file.")
    return await files[0].read()


async def _form(request: Request, body: bytes) -> FormData:
    parser = MultiPartParser(request.headers, _once(body), max_files=1)
    parser.spool_max_size = len(body) + 1  # in memory: the length has been checked
    try:
        return await parser.parse()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form can't be read ({error}); send one image as its file.") from error


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


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
        raise HTTPException(413, f"the request is over the limit of {max_bytes} bytes; send less.")
