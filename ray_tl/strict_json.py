"""JSON as RFC 8259 means it, https://www.rfc-editor.org/rfc/rfc8259, without what Python's parser lets pass."""

import json
from collections.abc import Sequence


def parse_json(content: str | bytes) -> object:
    """The value in a JSON text; of bytes the encoding is found out, UTF-8, 16 or 32.

    Raises:
        json.JSONDecodeError: If it breaks the grammar.
        ValueError: If it says NaN or Infinity, gives a key twice, or is more than can be read: a number of thousands of
            digits, values nested a thousand deep.
    """
    try:
        return json.loads(content, object_pairs_hook=_distinct, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _distinct(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {json.dumps(key[:50])} is given twice; keep one")
        found[key] = value
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number in JSON")
