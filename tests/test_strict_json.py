import json

import pytest

from ray_tl.strict_json import parse_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le"])
def test_bytes_are_read_in_the_encoding_that_they_are_in(encoding):
    assert parse_json('{"a": ["é", 1.5, null]}'.encode(encoding)) == {"a": ["é", 1.5, None]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": {"b": 1, "b": 1}}', r'key "b" is given twice; keep one'),
        ('{"\\ud83d": 1, "\\ud83d": 1}', r'key "\\ud83d" is given twice'),
        ("[NaN]", "NaN is no number in JSON"),
        ("-Infinity", "-Infinity is no number in JSON"),
        ("9" * 5000, "limit"),
        ("[" * 100_000, "it is nested too deep"),
    ],
)
def test_what_python_lets_pass_or_falls_over_is_a_value_error(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        parse_json(text)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[1,]", "yes", "01"])
def test_what_breaks_the_grammar_is_told_apart(text):
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)
