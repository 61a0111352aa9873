"""JSON lines: one object on each line."""

import json

from ray_tl.data.tables.columns import Asked, Columns
from ray_tl.data.tables.text import decoded
from ray_tl.errors import InvalidInput


def read_json_lines(data: bytes, asked: Asked) -> Columns:
    """A row for each line that holds an object; the others are broken, blank ones nothing.

    Raises:
        InvalidInput: If the text can't be read, is one JSON array, or no row has a needed column.
    """
    text = decoded(data, asked.subject)
    _refuse_array(text, asked)
    found: dict[int, dict[str, object]] = {}
    broken: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found[number] = _object(line)
        except (ValueError, RecursionError) as error:
            broken[number] = "is nested too deep" if isinstance(error, RecursionError) else f"is not JSON ({error})"
    present = dict.fromkeys(name for record in found.values() for name in record)
    if not found and broken:
        raise InvalidInput(f"{asked.subject} has no line that can be read; line 1 {next(iter(broken.values()))}.")
    names = asked.among(list(present))
    return Columns({name: [record.get(name) for record in found.values()] for name in names}, list(found), broken)


def _object(line: str) -> dict[str, object]:
    record = json.loads(line, object_pairs_hook=_without_doubles)
    if not isinstance(record, dict):
        raise ValueError(f"it holds a {type(record).__name__}, not an object")
    return record


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return record


def _refuse_array(text: str, asked: Asked) -> None:
    if not text.lstrip().startswith("["):
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return  # what is wrong with each line, the lines will say
    if isinstance(content, list):
        raise InvalidInput(f"{asked.subject} holds a JSON array; write one object on each line, as jq -c '.[]' does.")
