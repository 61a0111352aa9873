"""CSV and its kin: cells between commas, semicolons, tabs or bars."""

import csv
import io

import pyarrow as pa
import pyarrow.csv

from ray_tl.data.tables.columns import Asked, Columns
from ray_tl.data.tables.text import decoded
from ray_tl.errors import InvalidInput

SEPARATORS = (",", ";", "\t", "|")
MAX_BLOCK = 1 << 30


def read_separated(data: bytes, asked: Asked) -> Columns:
    """Cells as texts, whatever they look like: "null" may be a review, and 1 a class.

    The separator is the first by which the header has all needed columns. A row with more or fewer cells than the
    header is broken, and the others are read.

    Raises:
        InvalidInput: If the text or its header can't be read, or lacks a column.
    """
    text = decoded(data, asked.subject)
    headers = {separator: _header(text, separator, asked) for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: (set(asked.needed) <= set(headers[each]), len(headers[each])))
    names = asked.among(headers[separator])
    return _body(text.encode(), separator, {name: _written(text, separator, name) for name in names})


def _header(text: str, separator: str, asked: Asked) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=separator), [])]
    except csv.Error as error:
        raise InvalidInput(
            f"{asked.subject} has a header that can't be read ({error}); look for a quotation mark that is not closed."
        ) from error


def _written(text: str, separator: str, name: str) -> str:
    """A name of the header as it is written there, blanks and all."""
    return next(each for each in next(csv.reader(io.StringIO(text), delimiter=separator)) if each.strip() == name)


def _body(data: bytes, separator: str, written: dict[str, str]) -> Columns:
    broken: dict[int, str] = {}

    def left_out(row: pa.csv.InvalidRow) -> str:
        broken[row.number - 1] = f"has {row.actual_columns} cells, the header {row.expected_columns}"
        return "skip"

    read = list(written.values())
    table = pa.csv.read_csv(
        pa.BufferReader(data),
        # Rows are counted in their order; a block holds all of them, for a cell may be as long as the file.
        pa.csv.ReadOptions(use_threads=False, block_size=min(len(data) + 1, MAX_BLOCK)),
        pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=left_out),
        pa.csv.ConvertOptions(column_types=dict.fromkeys(read, pa.string()), include_columns=read),
    )
    rows = [row for row in range(1, len(table) + len(broken) + 1) if row not in broken]
    return Columns({name: table[each].to_pylist() for name, each in written.items()}, rows, broken)
