"""CSV and its kin: cells between commas, semicolons, tabs or bars."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from ray_tl.data.tables.columns import Asked, Columns
from ray_tl.data.tables.text import decoded
from ray_tl.errors import InvalidInput

SEPARATORS = (",", ";", "\t", "|")
MAX_CELL = 1 << 30
_NO_SEPARATOR = "\x1f"  # of a table with one column, whose texts may hold any of them
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
    headers = {each: _header(text, each) for each in separators}
    separator = max(separators, key=lambda each: (set(asked.needed) <= set(headers[each]), len(headers[each])))
    header = headers[separator]
    separator = separator if len(header) > 1 else _NO_SEPARATOR
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


def _header(text: str, separator: str) -> Row:
    return [name.strip() for name in next(csv.reader(_lines(text), delimiter=separator, skipinitialspace=True), [])]


def _rows(text: str, separator: str, width: int, asked: Asked) -> list[Row]:
    """All rows, the header among them: by quotation marks where these are sound, else with them as letters."""
    problem = ""
    for options in ({}, {"escapechar": "\\", "doublequote": False}) if '\\"' in text else ({},):
        try:
            rows = [row for row in _parsed(text, separator, options) if row]
        except csv.Error as error:
            problem = problem or str(error)
            continue
        if separator == "\t" and _unquoted(text, separator, width) and (at := _first_glued(rows)) is not None:
            problem = f"row {at} may be a text of several lines, or several rows"
            break
        return rows
    else:
        unquoted = _unquoted(text, separator, width)
        if unquoted and not _are_enclosed(unquoted):
            return unquoted
    raise InvalidInput(
        f"{asked.subject} has a quotation mark that is not closed ({problem}); write one within a cell twice, and "
        "the cell between two."
    )


def _unquoted(text: str, separator: str, width: int) -> list[Row]:
    """Rows with quotation marks as letters; none if lines have more or fewer cells than the header."""
    lines = (line for line in re.split(r"\r\n|\r|\n", text) if line)
    rows = [[cell if separator == "\t" else cell.lstrip(" ") for cell in line.split(separator)] for line in lines]
    return rows if all(len(row) == width for row in rows) else []


def _first_glued(rows: list[Row]) -> int | None:
    """The first row with a cell of several lines that holds tabs: tables without quotation marks look like that."""
    return next((at for at, row in enumerate(rows) if any("\n" in cell and "\t" in cell for cell in row)), None)


def _are_enclosed(rows: list[Row]) -> bool:
    """Whether quotation marks enclose cells as a rule: then they are no letters."""
    enclosed = sum(any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in row) for row in rows)
    return enclosed > len(rows) / 2


def _parsed(text: str, separator: str, options: dict[str, Any]) -> Iterator[Row]:
    return csv.reader(_lines(text), delimiter=separator, strict=True, skipinitialspace=separator != "\t", **options)


def _lines(text: str) -> io.StringIO:
    return io.StringIO(text, newline="")
