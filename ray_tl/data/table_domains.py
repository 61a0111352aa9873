"""Domains from tables of texts, of paths of images, or of images themselves."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_tl.data.domains import Inputs, LabelledDomain, UnlabelledDomain
from ray_tl.data.preprocessing import AnyPreprocessing, Preprocessing
from ray_tl.data.tables import Columns, locate, read_columns
from ray_tl.data.text import TextPreprocessing
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.search_space import DataOptions

SHOWN = 10

_log = logging.getLogger(__name__)


def read_labelled_table(
    name: str,
    preprocessing: AnyPreprocessing,
    options: DataOptions,
    field: str = "source",
    classes: Sequence[str] | None = None,
) -> LabelledDomain:
    """Rows of a table with their classes, in its order, under their numbers counted from 1.

    Args:
        name: Path or address of a table.
        preprocessing: From a cell to a row.
        options: Name the columns, and say what to do with rows that can't be read.
        field: What the table is, for messages.
        classes: Those of another domain, by whose numbers to label. The table may then lack some of them and have a
            single row of others, but has no more.

    Raises:
        InvalidInput: For a missing file or column, and, all at once, for unreadable rows unless they are skipped, fewer
            than two classes, a class with fewer than two rows, or one that is not in `classes`.
    """
    columns = read_columns(name, [_content(options), options.label_column], field)
    labels = [None if cell in (None, "") else str(cell) for cell in columns.cells[options.label_column]]
    unlabelled = {at: f"has no {options.label_column!r}" for at, label in enumerate(labels) if label is None}
    inputs, kept, problems = _read(columns, unlabelled, name, preprocessing, options, field)
    found = [str(labels[at]) for at in kept]
    problems += _class_problems(found) if classes is None else _foreign_problems(found, classes)
    _require_sound(problems, name, field)
    names = sorted(set(found)) if classes is None else list(classes)
    numbers = np.array([names.index(label) for label in found], dtype=np.int64)
    return LabelledDomain(_short(name), inputs, _ids(columns, kept), numbers, tuple(names))


def read_unlabelled_table(
    name: str, preprocessing: AnyPreprocessing, options: DataOptions, field: str = "target"
) -> UnlabelledDomain:
    """Rows of a table, of which no column but that of the texts or images is read; otherwise `read_labelled_table`."""
    columns = read_columns(name, [_content(options)], field)
    inputs, kept, problems = _read(columns, {}, name, preprocessing, options, field)
    _require_sound(problems, name, field)
    return UnlabelledDomain(_short(name), inputs, _ids(columns, kept))


def _content(options: DataOptions) -> str:
    return options.text_column if options.modality == "text" else options.image_column


def _read(
    columns: Columns,
    unusable: dict[int, str],
    name: str,
    preprocessing: AnyPreprocessing,
    options: DataOptions,
    field: str,
) -> tuple[Inputs, list[int], list[str]]:
    """Inputs of the usable rows, where in the columns these stand, and what is wrong with the table so far."""
    cells = columns.cells[_content(options)]
    if isinstance(preprocessing, TextPreprocessing):
        reasons = {at: why for at, cell in enumerate(cells) if (why := _why_no_text(cell))} | unusable
        kept = [at for at in range(len(cells)) if at not in reasons]
        inputs: Inputs = preprocessing.encode([str(cells[at]) for at in kept])
    else:
        images, found = _decode_all(cells, _opener(name, field), preprocessing)
        reasons = found | unusable
        kept = [at for at in range(len(cells)) if at not in reasons]
        inputs = images[kept]
    broken = columns.broken | {columns.rows[at]: why for at, why in reasons.items()}
    problems = _broken_problems(broken, options, field)
    return inputs, kept, problems + ([] if kept else ["has no usable rows; give a row for each example."])


def _why_no_text(cell: object) -> str | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "is empty"
    return None if isinstance(cell, str) else f"holds {type(cell).__name__}, not text"


def _opener(name: str, field: str) -> Callable[[str], bytes]:
    """Reads files whose paths are relative to the table."""
    files, path = locate(name, field)

    def read(relative: str) -> bytes:
        with files.open_input_file(str(PurePosixPath(path).parent / relative)) as file:
            return file.read()

    return read


def _decode_all(
    cells: Sequence[object], read: Callable[[str], bytes], preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    side = preprocessing.image_size
    images = np.zeros((len(cells), preprocessing.channels, side, side), np.uint8)

    def decode(at: int) -> str | None:
        try:
            images[at] = preprocessing.decode(_bytes_of(cells[at], read))
        except (InvalidInput, OSError, pa.ArrowException) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        outcomes = list(threads.map(decode, range(len(cells))))
    return images, {at: why for at, why in enumerate(outcomes) if why is not None}


def _bytes_of(cell: object, read: Callable[[str], bytes]) -> bytes:
    """Of a cell that holds an image, the path of one, or both, as `datasets` writes them."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str) and cell:
        return read(cell)
    raise InvalidInput("is empty" if not cell else f"holds {type(cell).__name__}, neither a path nor an image")


def _broken_problems(broken: dict[int, str], options: DataOptions, field: str) -> list[str]:
    lines = [f"row {row} {why}" for row, why in sorted(broken.items())]
    if options.on_broken == "skip":
        for line in lines:
            _log.warning("%s: left out %s", field, line)
        return []
    more = "; ..." if len(lines) > SHOWN else ""
    shown = "; ".join(lines[:SHOWN])
    return [f"{len(lines)} rows can't be used ({shown}{more}); mend them or set on_broken: skip."] if lines else []


def _class_problems(labels: Sequence[str]) -> list[str]:
    sizes = Counter(labels)
    if len(sizes) < 2:
        return [f"has {len(sizes)} classes, but a classifier needs 2; check the column of the labels."] if sizes else []
    return [
        f"class {name!r} has 1 row, but training and hold-out need 2; add some or remove it."
        for name, size in sorted(sizes.items())
        if size < 2
    ]


def _foreign_problems(labels: Sequence[str], known: Sequence[str]) -> list[str]:
    foreign = sorted(set(labels) - set(known))
    if not foreign:
        return []
    return [f"has the classes {', '.join(foreign[:SHOWN])}, which the source lacks; rename or remove their rows."]


def _require_sound(problems: Sequence[str], name: str, field: str) -> None:
    if problems:
        raise all_at_once(f"{field}={name!r}", problems)


def _ids(columns: Columns, kept: Sequence[int]) -> tuple[str, ...]:
    return tuple(str(columns.rows[at]) for at in kept)


def _short(name: str) -> str:
    return PurePosixPath(name).name
