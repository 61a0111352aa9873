"""CSV and its kin: cells between commas, semicolons, tabs or bars."""

import csv
import io
import re
from collections.abc import Iterator

from ray_tl.data.tables.columns import Asked, Columns
from ray_tl.data.tables.text import decoded
from ray_tl.errors import InvalidInput

SEPARATORS = (",", ";", "\t", "|")
MAX_CELL = 1 << 30
_STATED = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # how spreadsheets say it

csv.field_size_limit(MAX_CELL)  # a cell may be as long as the file

Row = list[str]


def read_separated(data: bytes, asked: Asked) -> Columns:
    """Cells as texts, whatever they look like: "null" may be a review, and 1 a class.

    The separator is the first by which the header has all needed columns. A row with more or fewer cells than the
    header is broken, and the others are read. Where quotation marks do not enclose cells, as in tables that were
    written without them, they are letters like any other.

    Raises:
        InvalidInput: If the text, its header or its quotation marks can't be read, or a column is missing.
    """
    text = _plain(data, asked)
    stated = _STATED.match(text)
    text = text[stated.end() :] if stated else text
    separators = (stated[1],) if stated else SEPARATORS
    headers = {each: _header(text, each, asked) for each in separators}
    separator = max(separators, key=lambda each: (set(asked.needed) <= set(headers[each]), len(headers[each])))
    header = headers[separator]
    places = {name: header.index(name) for name in asked.among(header)}
    rows = _rows(text, separator, len(header), asked)[1:]
    whole = {number: row for number, row in enumerate(rows, 1) if len(row) == len(header)}
    broken = {
        number: f"has {len(row)} cells, the header {len(header)}"
        for number, row in enumerate(rows, 1)
        if number not in whole
    }
    return Columns({name: [row[at] for row in whole.values()] for name, at in places.items()}, list(whole), broken)


def _plain(data: bytes, asked: Asked) -> str:
    """The text from its first line that holds something on."""
    text = decoded(data, asked.subject).lstrip("\r\n")
    if "\0" in text:
        raise InvalidInput(f"{asked.subject} holds NUL characters, as UTF-16 without a mark does; save it as UTF-8.")
    return text.replace("\r", "\n") if "\n" not in text else text


def _header(text: str, separator: str, asked: Asked) -> Row:
    try:
        return [name.strip() for name in next(_parsed(text, separator), [])]
    except csv.Error as error:
        raise InvalidInput(
            f"{asked.subject} has a header that can't be read ({error}); look for a quotation mark that is not closed."
        ) from error


def _rows(text: str, separator: str, width: int, asked: Asked) -> list[Row]:
    """All rows, the header among them; a quotation mark that is never closed would make one row of many."""
    try:
        rows = [row for row in _parsed(text, separator) if row]
        glued = next(
            (number for number, row in enumerate(rows) if any(_is_glued(cell, separator, width) for cell in row)), None
        )
        if glued is None:
            return rows
        problem = f"row {glued} holds other rows"
    except csv.Error as error:
        problem = str(error)
    unquoted = [line.split(separator) for line in text.splitlines() if line]
    if all(len(row) == width for row in unquoted):
        return unquoted
    raise InvalidInput(
        f"{asked.subject} has a quotation mark that is not closed ({problem}); write one within a cell twice, and the "
        "cell between two."
    )


def _is_glued(cell: str, separator: str, width: int) -> bool:
    """Whether a cell holds whole rows of the table."""
    if "\n" not in cell:
        return False
    lines = cell.split("\n")
    inside = [line for line in lines[1:-1] if line.count(separator) == width - 1 > 0]
    if len(inside) > 1:
        return True
    return separator != "," and width > 1 and cell.count(separator) >= (width - 1) * (len(lines) - 1)


def _parsed(text: str, separator: str) -> Iterator[Row]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
