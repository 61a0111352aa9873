"""NumPy arrays: `.npz` with an array a column, `.npy` with the examples alone."""

import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.tables.columns import Asked, Columns
from ray_tl.errors import InvalidInput, all_at_once

ALIASES = {"image": ("images", "x"), "text": ("texts", "x"), "label": ("labels", "y")}
"""Other names, in any case, under which an array is found that is not there by the name of its column."""

SAVE = "save it with numpy.savez(path, image=..., label=...)"


def read_array_archive(data: bytes, asked: Asked) -> Columns:
    """Rows of the arrays that are named as the columns, or by one of `ALIASES`.

    Raises:
        InvalidInput: If an array is missing, holds Python objects, or has another number of rows.
    """
    with _opened(data, asked) as archive:
        names = _names(list(archive), asked)
        arrays = {column: _array(archive, names[column], asked) for column in asked.among(list(names))}
    lengths = {names[column]: len(array) for column, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        stated = ", ".join(f"{name} has {count} rows" for name, count in lengths.items())
        raise InvalidInput(f"{asked.subject}: {stated}; give each example a row in every array.")
    return Columns.whole({column: _cells(array) for column, array in arrays.items()})


def read_array(data: bytes, asked: Asked) -> Columns:
    """Rows of the one array, as the one needed column.

    Raises:
        InvalidInput: If labels are needed as well, or it is no array of plain values.
    """
    if len(asked.needed) > 1:
        raise InvalidInput(f"{asked.subject} holds one array and no {asked.needed[1]!r}; {SAVE}.")
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InvalidInput(f"{asked.subject} is no NumPy array of plain values ({error}); {SAVE}.") from error
    _require_rows({asked.needed[0]: array}, asked)
    return Columns.whole({asked.needed[0]: _cells(array)})


def _opened(data: bytes, asked: Asked) -> np.lib.npyio.NpzFile:
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{asked.subject} is no archive of NumPy arrays ({error}); {SAVE}.") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InvalidInput(f"{asked.subject} holds a single array; call it .npy, or {SAVE}.")
    return archive


def _names(present: Sequence[str], asked: Asked) -> dict[str, str]:
    """The array of each column: that of its name, else the one with one of its other names."""
    found = {name: name for name in present}
    for column in (*asked.needed, *asked.wanted):
        others = [name for name in present if name.lower() in ALIASES.get(column, ())]
        if column not in present and len(others) > 1:
            raise InvalidInput(f"{asked.subject} has no {column!r}, but {' and '.join(others)}; rename one to it.")
        if column not in present and others:
            found[column] = others[0]
    return found


def _array(archive: Mapping[str, NDArray], name: str, asked: Asked) -> NDArray:
    try:
        array = archive[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{asked.subject}: the array {name!r} can't be read ({error}); {SAVE}.") from error
    _require_rows({name: array}, asked)
    return array


def _require_rows(arrays: Mapping[str, NDArray], asked: Asked) -> None:
    if flat := [
        f"{name!r} is a single value, and needs a row for each example."
        for name, each in arrays.items()
        if each.ndim == 0
    ]:
        raise all_at_once(asked.subject, flat)


def _cells(array: NDArray) -> list[object]:
    """One value a row: a text or number, or the array of an image."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim > 1:
        return list(array)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    cells: list[object] = array.tolist()
    return cells
