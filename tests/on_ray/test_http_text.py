"""What a model of texts is sent over HTTP, and what it says of what it is not meant for."""

import pytest

from ray_tl.on_ray.http_api import LiveVersion, Refusal
from ray_tl.on_ray.http_inputs import MAX_CHARACTERS, MAX_TEXTS
from tests.on_ray.test_http_api import CAT, Echo, ask

READS_TEXT = LiveVersion("reviews", "v1", "reviews-v1", ("bad", "good"), 1_000_000, "text")
TEXT = "Eine große Kamera & 5 + 5 = 10"
JSON, FIELDS = {"content-type": "application/json"}, {"content-type": "application/x-www-form-urlencoded"}


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
