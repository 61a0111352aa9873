"""From the address of a table to its columns."""

import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow.fs import FileType

from ray_tl.data.addresses import Address
from ray_tl.data.tables.arrays import read_array, read_array_archive
from ray_tl.data.tables.columns import Asked, Columns
from ray_tl.data.tables.json_lines import read_json_lines
from ray_tl.data.tables.parquet import read_parquet
from ray_tl.data.tables.saved import is_saved_dataset, read_saved_dataset
from ray_tl.data.tables.separated import read_separated
from ray_tl.data.tables.text import unpacked
from ray_tl.errors import InvalidInput

_TEXTS = {".csv": read_separated, ".tsv": read_separated, ".jsonl": read_json_lines, ".ndjson": read_json_lines}
_ARRAYS = {".npz": read_array_archive, ".npy": read_array}
SUFFIXES = (*_TEXTS, *(f"{suffix}.gz" for suffix in _TEXTS), ".parquet", *_ARRAYS)
KINDS = f"{', '.join(SUFFIXES)}, or the folder of a data set that `datasets` has saved"


def is_table(name: str) -> bool:
    """Whether a path or address names a file that is read as a table."""
    return name.lower().endswith(SUFFIXES)


def is_table_at(address: Address) -> bool:
    """Whether there is a table: a file of its name, or a data set saved on disk."""
    if is_table(address.path):
        return address.kind() is not FileType.Directory
    return address.kind() is FileType.Directory and is_saved_dataset(address)


def read_columns(table: Address | str, columns: Sequence[str], field: str, wanted: Sequence[str] = ()) -> Columns:
    """Read some columns of a table, and nothing else of it.

    Args:
        table: Path or address, with one of `SUFFIXES`, or of a data set saved on disk.
        columns: To read.
        field: What the table is, for messages.
        wanted: To read too, where they are there.

    Raises:
        InvalidInput: If there is no such file, it is no such table, or it lacks a column.
    """
    address = table if isinstance(table, Address) else Address.of(table, field)
    asked = Asked(f"{field}={address.stated!r}", tuple(columns), tuple(wanted))
    try:
        return _reader(address)(address, asked)
    except InvalidInput:
        raise
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{asked.subject} has a text that is not UTF-8 ({error}); write it as UTF-8.") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(f"{asked.subject} can't be read as a table ({reason}); mend the file.") from error


def _reader(address: Address) -> Callable[[Address, Asked], Columns]:
    kind = address.kind()
    if kind is FileType.Directory:
        if is_saved_dataset(address):
            return read_saved_dataset
        raise InvalidInput(f"{address} is a folder, not a table; give a file that ends in {KINDS}.")
    if not is_table(address.path):
        raise InvalidInput(f"{address} is not a table; give a file that ends in {KINDS}.")
    if kind is not FileType.File:
        wrong = "does not exist" if kind is FileType.NotFound else "is a pipe or device, not a file"
        raise InvalidInput(f"{address} {wrong}; give a file that ends in {KINDS}.")
    return _read_file


def _read_file(address: Address, asked: Asked) -> Columns:
    stem, suffix = os.path.splitext(PurePosixPath(address.path).name.lower())
    if suffix == ".parquet":
        with address.files.open_input_file(address.path) as file:
            return read_parquet(file, asked)
    data = _bytes(address, asked)
    if suffix in _ARRAYS:
        return _ARRAYS[suffix](data, asked)
    if suffix == ".gz":
        data, suffix = unpacked(data, asked.subject), os.path.splitext(stem)[1]
    return _TEXTS[suffix](data, asked)


def _bytes(address: Address, asked: Asked) -> bytes:
    try:
        return address.read()
    except InvalidInput as error:
        raise InvalidInput(f"{asked.subject} {error}; check the file and its rights.") from error
