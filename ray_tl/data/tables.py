"""Columns of CSV, TSV, JSONL and Parquet files, here or at any address that `pyarrow.fs` knows."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.registry import did_you_mean

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Columns:
    """Cells of the columns that were asked for; no other column has been kept.

    Attributes:
        cells: By column, each with one value for each row; `None` for an empty cell.
        rows: Number of each row in the file, counted from 1, the header not being one.
        broken: Why a row of the file has no cells, by its number.
    """

    cells: dict[str, list[object]]
    rows: list[int]
    broken: dict[int, str]


def is_table(name: str) -> bool:
    """Whether a path or address names a file that is read as a table."""
    return name.lower().endswith(SUFFIXES)


def read_columns(name: str, columns: Sequence[str], field: str) -> Columns:
    """Read some columns of a table, and nothing else of it.

    Args:
        name: Path or address, with one of `SUFFIXES`; UTF-8 where it is text.
        columns: To read.
        field: What the table is, for messages.

    Raises:
        InvalidInput: If there is no such file, it is no such table, or it lacks a column.
    """
    files, path = locate(name, field)
    try:
        with files.open_input_file(path) as file:
            return _READERS[PurePosixPath(path).suffix.lower()](file, columns, f"{field}={name!r}")
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise InvalidInput(f"{field}={name!r} has the byte {byte}, which is no UTF-8; save it as UTF-8.") from error
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{field}={name!r} can't be read as a table ({error}); mend the file.") from error


def locate(name: str, field: str) -> tuple[FileSystem, str]:
    """The file system of a file, and its path there.

    Raises:
        InvalidInput: If it is not a table's name, or there is no such file.
    """
    if not is_table(name):
        raise InvalidInput(f"{field}={name!r} is no table; give a file that ends in {', '.join(SUFFIXES)}.")
    try:
        files, path = FileSystem.from_uri(name) if "://" in name else (LocalFileSystem(), name)
        kind = files.get_file_info(path).type
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{field}={name!r} can't be reached ({error}); check the address.") from error
    if kind is not FileType.File:
        wrong = "does not exist" if kind is FileType.NotFound else "is a folder"
        raise InvalidInput(f"{field}={name!r} {wrong}; give a file that ends in {', '.join(SUFFIXES)}.")
    return files, path


def _read_separated(separator: str) -> Callable[[pa.NativeFile, Sequence[str], str], Columns]:
    def read(file: pa.NativeFile, columns: Sequence[str], subject: str) -> Columns:
        data = file.read()
        header = next(csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig"), delimiter=separator), [])
        _require_columns(header, columns, subject)
        broken: dict[int, str] = {}

        def left_out(row: pa.csv.InvalidRow) -> str:
            broken[row.number - 1] = f"has {row.actual_columns} cells, the header {row.expected_columns}"
            return "skip"

        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(use_threads=False),  # rows are counted in their order
            pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=left_out),
            # A cell is a text, whatever it looks like: "null" may be a review, and 1 a class.
            pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns)),
        )
        rows = [row for row in range(1, len(table) + len(broken) + 1) if row not in broken]
        return Columns({name: table[name].to_pylist() for name in columns}, rows, broken)

    return read


def _read_lines(file: pa.NativeFile, columns: Sequence[str], subject: str) -> Columns:
    found: dict[int, dict[str, object]] = {}
    broken: dict[int, str] = {}
    for number, line in enumerate(file.read().decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            broken[number] = f"is no JSON ({error})"
            continue
        if isinstance(record, dict):
            found[number] = record
        else:
            broken[number] = "is no JSON object"
    _require_columns({name: None for record in found.values() for name in record}, columns, subject)
    return Columns({name: [record.get(name) for record in found.values()] for name in columns}, list(found), broken)


def _read_parquet(file: pa.NativeFile, columns: Sequence[str], subject: str) -> Columns:
    stored = pa.parquet.ParquetFile(file)
    _require_columns(stored.schema_arrow.names, columns, subject)
    table = stored.read(columns=list(columns))
    return Columns({name: table[name].to_pylist() for name in columns}, list(range(1, len(table) + 1)), {})


def _require_columns(present: Sequence[str] | dict[str, None], wanted: Sequence[str], subject: str) -> None:
    if not present:
        raise InvalidInput(f"{subject} has no rows; give a table with a header and a row for each example.")
    if missing := [name for name in wanted if name not in present]:
        hints = [f"has no column {name!r}{did_you_mean(name, list(present))}" for name in missing]
        raise all_at_once(subject, hints)


_READERS = {
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
    ".jsonl": _read_lines,
    ".parquet": _read_parquet,
}
