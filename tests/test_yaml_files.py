"""Expected values are those of the core schema, https://yaml.org/spec/1.2.2/#1032-tag-resolution."""

import math
import re
from pathlib import Path

import pytest

from ray_tl.errors import InvalidInput
from ray_tl.yaml_files import MAX_BYTES, read_yaml


def read(folder: Path, text: str | bytes) -> dict[str, object]:
    path = folder / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path, "`field: value` lines")


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(folder, text)
    return str(caught.value).removeprefix(f"{folder / 'a.yaml'}: ")


# what a text means


@pytest.mark.parametrize(
    "text", ["yes", "No", "on", "OFF", "y", "n", "1:30", "2020-10-05", "1_000", "0b1", "1e", ".", "="]
)
def test_what_yaml_1_1_would_change_is_a_text(tmp_path, text):
    assert read(tmp_path, f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("null", None), ("Null", None), ("NULL", None), ("~", None), ("", None)],
        *[("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False)],
        *[("0", 0), ("-19", -19), ("+12", 12), ("0o7", 7), ("0o30", 24), ("0x3A", 58), ("0x1f", 31)],
        *[("0.", 0.0), ("-0.0", 0.0), (".5", 0.5), ("5.", 5.0), ("+12e03", 12000.0), ("-2E+05", -2e5), ("1e-4", 1e-4)],
        *[(".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf), ("03.5", 3.5)],
        *[("'030'", "030"), ('"true"', "true"), ("!!str 12", "12"), ("!!int '12'", 12), ("!!float 1", 1.0)],
    ],
)
def test_text_is_what_the_core_schema_says(tmp_path, text, value):
    (found,) = read(tmp_path, f"a: {text}").values()
    assert (found, type(found)) == (value, type(value))


def test_not_a_number_is_read_as_such(tmp_path):
    assert all(math.isnan(value) for value in read(tmp_path, "a: [.nan, .NaN, .NAN]")["a"])


def test_keys_are_as_json_writes_them(tmp_path):
    assert read(tmp_path, "{1: a, true: b, ~: c, no: d}") == {"1": "a", "true": "b", "null": "c", "no": "d"}


def test_merge_keys_bring_what_is_not_stated(tmp_path):
    """The examples of https://yaml.org/type/merge.html: what is stated wins, then the earlier mapping of a list."""
    text = (
        "- &CENTER {x: 1, y: 2}\n- &BIG {r: 10}\n- &SMALL {r: 1}\n- {<<: *CENTER, r: 10}\n- {<<: [*BIG, *SMALL], x: 1}"
    )
    items = read(tmp_path, "all:\n" + text)["all"]
    assert items[3:] == [{"x": 1, "y": 2, "r": 10}, {"r": 10, "x": 1}]


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfa: 1", "a: 1".encode("utf-16"), b"a: 1\r\n", b"---\na: 1\n...\n"])
def test_marks_of_the_encoding_and_of_the_document_change_nothing(tmp_path, text):
    assert read(tmp_path, text) == {"a": 1}


# what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: a was given before, on line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 1\n", "line 4: a.b was given before, on line 2"),
        ("a: {b: 1,\n    'b': 2}\n", "line 2: a.b was given before, on line 1"),
        ("a: [{b: {c: , c: }}]", "line 1: a.0.b.c was given before, on line 1"),
        ("a: {1: x, '1': y}", "line 1: a.1 was given before, on line 1"),
        ("a: &a {b: 1}\nc: {<<: *a, <<: *a}\n", "line 2: c.<< was given before, on line 2"),
    ],
)
def test_key_given_twice_is_named_with_both_lines(tmp_path, text, said):
    assert refused(tmp_path, text) == f"not valid YAML: {said}; keep one of the two."


def test_mistake_behind_an_alias_is_told_once(tmp_path):
    assert "2 problems" not in refused(tmp_path, "a: &a {b: 1, b: 2}\nc: *a\nd: [*a, *a]\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("030", "line 1: a=030 has a leading zero: is it 24, as in YAML 1.1, or 30, as in 1.2? Write 24 or 30, or"),
        ("-012", "is it -10, as in YAML 1.1, or -12, as in 1.2?"),
        ("089", "line 1: a=089 has a leading zero; leave it out"),
        ("00", "line 1: a=00 has a leading zero; leave it out"),
    ],
)
def test_whole_number_with_a_leading_zero_is_asked_about(tmp_path, text, said):
    assert said in refused(tmp_path, f"a: {text}")


def test_all_mistakes_are_told_at_once(tmp_path):
    message = refused(tmp_path, "a: 010\na: 1\nb: {c: 1, c: 2, d: !x 3}\n")
    assert [re.match(r"  - line (\d)", line)[1] for line in message.splitlines()[1:]] == ["1", "2", "3", "3"]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmnopqr", "bcdefghijklmnopqrs", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(2000))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold `field: value` lines; it holds nothing."),
        ("# a comment\n", "it holds nothing."),
        ("- a\n", "it holds a list."),
        ("a", "it holds a single value."),
        (
            "a: 1\n---\nb: 2\n",
            "line 2: expected a single document in the stream, but found another document; keep one.",
        ),
        (
            "a:\n\tb: 1\n",
            "line 2: while scanning for the next token, found character '\\t' that cannot start any token; ",
        ),
        (b"a: caf\xe9", "save it as UTF-8."),
        (b"a: \xed\xa0\xbd", "save it as UTF-8."),
        ("a: \0", "special characters are not allowed"),
        ("? [b, c]\n: 1\n", "line 1: the file has a list or mapping as a key; use a text."),
        ("a: {{b: }}", "line 1: a has a list or mapping as a key; use a text."),
        ("a: &a [*a]", "line 1: a.0 is an alias of what it stands in; write it out."),
        ("a: *b", "line 1: found undefined alias 'b'."),
        ("a: {<<: 3}", "line 1: a.<< must be a mapping or a list of mappings; give an alias of one."),
        ("a: " + "[" * 5000, "it is nested deeper than 100 levels; flatten it."),
        ("a: " + "[" * 120 + "]" * 120, "it is nested deeper than 100 levels; flatten it."),
        (CHAIN, "it is nested deeper than 100 levels; flatten it."),
        (BOMB, "its aliases stand for more than 100000 values; write out fewer."),
        ("a: 0x" + "f" * 99, "is a whole number beyond 64 bits; give a smaller one."),
        ("a: " + "9" * 5000, "is a whole number beyond 64 bits; give a smaller one."),
        ("a: !!python/object/apply:os.getcwd []", "tag '!!python/object/apply:os.getcwd' is not known or does not fit"),
        ("a: !!int yes", "tag '!!int' is not known or does not fit; leave it out."),
        ("a: " + "x" * MAX_BYTES, f"is over the limit of {MAX_BYTES} bytes"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_what_makes_no_sense_is_one_message(tmp_path, text, said):
    assert said in refused(tmp_path, text)


def test_file_that_can_not_be_read_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.yaml can't be read \(No such file or directory\)"):
        read_yaml(tmp_path / "none.yaml", "anything")
