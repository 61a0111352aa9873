"""From an HTTP request to what a model reads: the bytes of one image, or texts."""

import codecs
import json
from collections.abc import AsyncGenerator
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from ray_tl.data.text import why_no_text
from ray_tl.strict_json import parse_json

MAX_TEXTS = 64
MAX_CHARACTERS = 100_000
SEND_IMAGE = "send an image as the body, or as the file of a form."
SEND_FILE = "send one image as its file."
SEND_TEXT = 'send {"text": "..."} or {"texts": ["...", ...]} as JSON, or a text as the body.'
FORM, FIELDS, JSON = "multipart/form-data", "application/x-www-form-urlencoded", "application/json"
PLAIN = "text/plain"
_AS_BYTES = "latin-1"
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined"})  # though codecs
_BEFORE_JSON = b"\xef\xbb\xbf\xfe\xff\0 \t\r\n"  # byte order marks, zeros of UTF-16 and 32, white space


async def image_of(request: Request, max_bytes: int) -> bytes:
    """The image, as the body or as the one file of a form.

    Raises:
        HTTPException: 400 for none or several, 413 for too many bytes, 415 for a text.
    """
    body = await _read(request, max_bytes)
    kind = _kind(request)
    if _is_json(kind) or kind.startswith("text/"):
        raise HTTPException(415, f"this model reads images, not {kind}; {SEND_IMAGE}")
    image = await _only_file(request, body) if kind == FORM else body
    if not image:
        raise HTTPException(400, f"the request holds no bytes; {SEND_IMAGE}")
    return image


async def texts_of(request: Request, max_bytes: int) -> tuple[list[str], bool]:
    """The texts, and whether they were sent as a list.

    Raises:
        HTTPException: 400 for none, one without a visible character, or a body that can't be parsed; 413 for too long a
            text or too many; 415 for what is no text, or not in the charset that it is said to be in.
    """
    body = await _read(request, max_bytes)
    texts, is_list = await _parsed(request, body)
    where = [f"texts[{number}]" if is_list else "the text" for number in range(len(texts))]
    if len(texts) > MAX_TEXTS:
        raise HTTPException(413, f"the request holds {len(texts)} texts, over the limit of {MAX_TEXTS}; send fewer.")
    for name, text in zip(where, texts, strict=True):
        if reason := why_no_text(text):
            raise HTTPException(400, f"{name} {reason}; {SEND_TEXT}")
        if len(text) > MAX_CHARACTERS:
            raise HTTPException(413, f"{name} is over the limit of {MAX_CHARACTERS} characters; send a shorter one.")
    return texts, is_list


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(kind: str) -> bool:
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))  # RFC 6839


async def _parsed(request: Request, body: bytes) -> tuple[list[str], bool]:
    kind, charset = _kind(request), _charset(request)
    if kind == FORM:
        return [await _text_field(request, body, charset or "utf-8")], False
    content = body if charset is None else _decoded(body, kind, charset)
    if _is_json(kind) or (kind != PLAIN and _is_json_object(content)):
        return _from_json(content)
    if kind == FIELDS:  # a form of a page, or what `curl -d` sends, whatever it is
        return [_url_encoded_field(body, charset or "utf-8")], False
    return [content if isinstance(content, str) else _decoded(content, kind, "utf-8")], False


def _charset(request: Request) -> str | None:
    """The charset that is stated, if any, as one of Python's codecs of texts."""
    stated = parse_options_header(request.headers.get("content-type", ""))[1].get(b"charset")
    if stated is None:
        return None
    name = stated.decode("latin-1")
    try:
        "a".encode(name)  # refuses what is no codec of texts, as rot13 and zip
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):
        codec = "undefined"
    if codec in _NO_CHARSETS:
        raise HTTPException(415, f"charset={name[:50]!r} is not known; send UTF-8, which needs none.")
    return codec


def _decoded(body: bytes, kind: str, charset: str) -> str:
    try:
        return body.decode("utf-8-sig" if charset == "utf-8" else charset)
    except UnicodeError:
        stated = f"{kind}, not text" if kind and not _may_be_text(kind) else f"no text in {charset.upper()}"
        raise HTTPException(415, f"this model reads texts, and this is {stated}; {SEND_TEXT}") from None


def _may_be_text(kind: str) -> bool:
    return kind.startswith("text/") or kind == FIELDS or _is_json(kind)


def _is_json_object(content: str | bytes) -> bool:
    """Whether it is one by its grammar, whatever else may be wrong with it."""
    begins = content.lstrip()[:1] == "{" if isinstance(content, str) else content.lstrip(_BEFORE_JSON)[:1] == b"{"
    if not begins:
        return False
    try:
        parse_json(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    except ValueError:
        return True
    return True


def _from_json(body: str | bytes) -> tuple[list[str], bool]:
    try:
        content = parse_json(body)
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON ({error}); {SEND_TEXT}") from error
    if isinstance(content, dict) and set(content) == {"text"} and isinstance(content["text"], str):
        return [content["text"]], False
    texts = content.get("texts") if isinstance(content, dict) and set(content) == {"texts"} else None
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return texts, True
    raise HTTPException(400, f"the JSON holds neither a text nor a list of texts alone; {SEND_TEXT}")


def _url_encoded_field(body: bytes, charset: str) -> str:
    """The field `text`; all of the body, if there is none."""
    pairs = [pair.replace(b"+", b" ").partition(b"=") for pair in body.split(b"&")]
    fields = [unquote_to_bytes(value) for name, sign, value in pairs if sign and unquote_to_bytes(name) == b"text"]
    if len(fields) > 1:
        raise HTTPException(400, f"the form has {len(fields)} fields 'text'; {SEND_TEXT}")
    return _decoded(fields[0] if fields else body, FIELDS, charset)


async def _text_field(request: Request, body: bytes, charset: str) -> str:
    fields = (await _form(request, body, SEND_TEXT)).getlist("text")
    texts = [field for field in fields if isinstance(field, str)]
    if not texts:
        raise HTTPException(415, f"this model reads texts, and the form has no field 'text'; {SEND_TEXT}")
    if len(texts) > 1:
        raise HTTPException(400, f"the form has {len(texts)} fields 'text'; {SEND_TEXT}")
    return _decoded(texts[0].encode(_AS_BYTES), "", charset)


async def _only_file(request: Request, body: bytes) -> bytes:
    form = await _form(request, body, SEND_FILE)
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(files) != 1:
        raise HTTPException(400, f"the form has {len(files)} files; send one image as its file.")
    return await files[0].read()


async def _form(request: Request, body: bytes, remedy: str) -> FormData:
    """Its fields as texts in Latin-1, which keeps every byte: Starlette would guess where UTF-8 does not fit."""
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary")
    stated = "" if boundary is None else f'; boundary="{boundary.decode(_AS_BYTES)}"'
    headers = Headers({"content-type": f"{FORM}{stated}; charset={_AS_BYTES}"})
    parser = MultiPartParser(headers, _once(body), max_files=1)
    parser.spool_max_size = len(body) + 1  # in memory: the length has been checked
    try:
        return await parser.parse()
    except (MultiPartException, FormParserError) as error:
        raise HTTPException(400, f"the form can't be read ({error}); {remedy}") from error


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
