"""What a model of texts is sent over HTTP, and what it says of what it is not meant for."""

import json
from urllib.parse import quote_plus

import pytest

from ray_tl.on_ray.http_api import LiveVersion, Refusal
from ray_tl.on_ray.http_inputs import MAX_CHARACTERS, MAX_TEXTS
from tests.on_ray.test_http_api import CAT, Echo, ask

READS_TEXT = LiveVersion("reviews", "v1", "reviews-v1", ("bad", "good"), 1_000_000, "text")
TEXT = "Eine große Kamera & 5 + 5 = 10"
AS_JSON = json.dumps({"text": TEXT}, ensure_ascii=False).encode()
NOT_JSON = ["application/x-www-form-urlencoded", "application/octet-stream", "text/json", "nonsense"]
NO_CHARSETS = ["rot13", "zip", "hex", "punycode", "unicode_escape", "undefined", "klingon"]
JSON, FIELDS = {"content-type": "application/json"}, {"content-type": "application/x-www-form-urlencoded"}
BARE_FORM = {"content-type": "multipart/form-data"}
LATIN_JSON = {"content-type": "application/json; charset=latin-1"}
LATIN_FIELDS = {"content-type": "application/x-www-form-urlencoded; charset=latin-1"}


def plain(charset: str) -> dict[str, str]:
    return {"content-type": f"text/plain; charset={charset}"}


class Asked(Echo):
    """Keeps every example that it was asked about."""

    def __init__(self, outcome=CAT) -> None:
        super().__init__(outcome, live=READS_TEXT)
        self.all: list[str] = []

    async def classify(self, image):
        self.all.append(image.decode())
        return await self._outcome()


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"text": TEXT}},
        {"content": TEXT.encode()},
        {"content": TEXT.encode(), "headers": {"content-type": "text/plain; charset=utf-8"}},
        {"content": TEXT.encode(), "headers": FIELDS},  # what curl -d sends
        {"data": {"text": TEXT}},  # what the form of the page sends
        {"files": {"text": (None, TEXT)}},  # what curl -F text=... sends
        *[{"content": AS_JSON, "headers": {"content-type": kind}} for kind in NOT_JSON],
        {"content": AS_JSON},
        {"content": AS_JSON, "headers": {"content-type": "application/problem+json"}},
        {"content": AS_JSON, "headers": {"content-type": "Application/JSON; charset=utf-8"}},
        *[{"content": json.dumps({"text": TEXT}).encode(name), "headers": JSON} for name in ("utf-16", "utf-32-be")],
        *[{"content": TEXT.encode(name), "headers": plain(name)} for name in ("latin-1", "utf-16", "gb18030")],
        {"content": TEXT.encode("utf-8-sig"), "headers": plain("UTF-8")},
        {
            "content": AS_JSON.decode().encode("latin-1"),
            "headers": {"content-type": "application/json; charset=latin-1"},
        },
        {"content": quote_plus(TEXT.encode("latin-1")).join(("text=", "")), "headers": LATIN_FIELDS},
    ],
)
def test_a_text_may_be_json_the_body_or_a_field_of_a_form(request_):
    asked = Asked()
    answer = ask(asked, "POST", "/predict", **request_)
    assert (answer.status_code, answer.json()["class"]) == (200, "cat")
    assert asked.all == [TEXT]


def test_a_list_of_texts_gets_a_list_of_answers():
    asked = Asked()
    answer = ask(asked, "POST", "/predict", json={"texts": ["one", "two"]})
    assert [each["version"] for each in answer.json()["predictions"]] == ["v1", "v1"]
    assert asked.all == ["one", "two"]


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"content": b""}, 400, "the text is empty; send"),
        ({"json": {"texts": ["fine", " "]}}, 400, r"texts[1] is empty"),
        ({"json": {"texts": []}}, 400, "neither a text nor a list of texts"),
        ({"json": {"text": 5}}, 400, "neither a text nor a list of texts"),
        ({"json": {"text": "a", "more": 1}}, 400, "neither a text nor a list of texts alone"),
        ({"json": ["a"]}, 400, "neither a text nor a list of texts"),
        ({"content": b"{half", "headers": JSON}, 400, "the body is no JSON"),
        ({"content": b"[" * 100_000, "headers": JSON}, 400, "the body is no JSON"),
        (
            {"content": b"\xff\xd8\xff\xe0", "headers": {"content-type": "image/jpeg"}},
            415,
            "this is image/jpeg, not text",
        ),
        ({"content": b"\x89PNG\xff"}, 415, "this is no text in UTF-8"),
        ({"files": {"file": b"\x89PNG"}}, 415, "the form has no field 'text'"),
        (
            {"content": b'{"text": "cut \\ud83d"}', "headers": JSON},
            400,
            r"the text holds half of a surrogate pair (\ud83d)",
        ),
        ({"content": b'{"texts": ["", "\\udc00 a"]}', "headers": JSON}, 400, "texts[0] is empty"),
        ({"content": b'{"texts": ["a", "b", "\\udc00"]}', "headers": JSON}, 400, "texts[2] holds half of a surrogate"),
        ({"content": b'{"\\ud83d": 1, "\\ud83d": 2}', "headers": JSON}, 400, r'key "\ud83d" is given twice'),
        ({"content": "\u200b\ufeff\u200d".encode()}, 400, "the text holds no visible character"),
        ({"json": {"texts": ["a", "\x00\x1b"]}}, 400, "texts[1] holds no visible character"),
        ({"data": {"text": "\u2060"}}, 400, "the text holds no visible character"),
        ({"content": b'{"text": "a", "more": 1}'}, 400, "neither a text nor a list of texts alone"),
        ({"content": b'{"text": "a", "text": "b"}'}, 400, 'key "text" is given twice; keep one'),
        ({"content": b'{"text": NaN}', "headers": JSON}, 400, "NaN is no number in JSON"),
        ({"content": b'{"text": ' + b"9" * 5000 + b"}", "headers": JSON}, 400, "the body is no JSON"),
        ({"content": b'{"text": ' + b"[" * 100_000}, 400, "it is nested too deep"),
        ({"content": b'{"text": "caf\xe9"}', "headers": JSON}, 400, "the body is no JSON"),
        ({"content": b"text=a&text=b", "headers": FIELDS}, 400, "the form has 2 fields 'text'"),
        ({"content": b"text=caf%E9", "headers": FIELDS}, 415, "this is no text in UTF-8"),
        ({"content": b"caf\xe9", "headers": FIELDS}, 415, "this is no text in UTF-8"),
        ({"files": {"text": (None, b"caf\xe9")}}, 415, "this is no text in UTF-8"),
        ({"files": [("text", (None, "a")), ("text", (None, "b"))]}, 400, "the form has 2 fields 'text'"),
        (
            {"content": b"x", "headers": BARE_FORM},
            400,
            'boundary in multipart.); send {"',
        ),
        ({"content": b"caf\xe9", "headers": plain("us-ascii")}, 415, "this is no text in ASCII"),
        ({"content": b"abc", "headers": plain("utf-16")}, 415, "this is no text in UTF-16"),
        ({"content": b"+2D0-", "headers": plain("utf-7")}, 400, "the text holds half of a surrogate pair"),
        *[({"content": b"a", "headers": plain(name)}, 415, f"charset='{name}' is not known") for name in NO_CHARSETS],
        ({"content": b"a" * (MAX_CHARACTERS + 1)}, 413, f"over the limit of {MAX_CHARACTERS} characters"),
        ({"json": {"texts": ["a"] * (MAX_TEXTS + 1)}}, 413, f"over the limit of {MAX_TEXTS}; send fewer"),
        ({"content": b"a" * 1_000_001}, 413, "over the limit of 1000000 bytes"),
    ],
)
def test_what_is_no_text_is_refused_with_a_reason_and_nobody_is_asked(request_, status, said):
    asked = Asked()
    answer = ask(asked, "POST", "/predict", **request_)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert asked.all == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (AS_JSON.decode(), "text/plain"),  # stated to be a text
        ("{half", "application/octet-stream"),
        ("{braces} and more", "application/x-www-form-urlencoded"),
        ('["a list"]', "application/x-www-form-urlencoded"),
        ("100%FF sure", "application/x-www-form-urlencoded"),
    ],
)
def test_what_is_no_json_object_or_stated_to_be_a_text_is_read_as_it_stands(text, kind):
    asked = Asked()
    assert ask(asked, "POST", "/predict", content=text.encode(), headers={"content-type": kind}).status_code == 200
    assert asked.all == [text]


def test_one_refused_text_refuses_the_list():
    answer = ask(Asked(Refusal("not a text")), "POST", "/predict", json={"texts": ["one", "two"]})
    assert (answer.status_code, answer.json()["error"]) == (415, "not a text")


@pytest.mark.parametrize(
    "request_", [{"json": {"text": TEXT}}, {"content": b"a", "headers": {"content-type": "text/plain"}}]
)
def test_a_model_of_images_says_that_it_reads_no_text(request_):
    echo = Echo()
    answer = ask(echo, "POST", "/predict", **request_)
    assert answer.status_code == 415
    assert "this model reads images, not" in answer.json()["error"]
    assert echo.asked == b""


def test_the_page_of_a_model_of_texts_has_a_box_for_one():
    page = ask(Asked(), "GET", "/").text
    assert '<textarea name="text"' in page
    assert '{"texts": ["One.", "Another."]}' in page
    assert 'type="file"' not in page
