"""Domains from tables of texts, of paths of images, or of images themselves; columns first, examples later."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.addresses import Address
from ray_tl.data.class_problems import class_problems
from ray_tl.data.domains import Inputs, LabelledDomain, UnlabelledDomain
from ray_tl.data.files import THREADS
from ray_tl.data.labels import raw_names, read_labels
from ray_tl.data.legacy import label_of_version_1
from ray_tl.data.preprocessing import AnyPreprocessing, Preprocessing
from ray_tl.data.reading import Reading, require_none, set_aside
from ray_tl.data.tables import Columns, read_columns
from ray_tl.data.text import TextPreprocessing, why_no_text
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions

ROWS = "rows"


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
            than two classes, a class with fewer than two rows, classes of nearly one name, or one that is not in
            `classes`.
    """
    listed = LabelledTable(Address.of(name, field), preprocessing, options, classes)
    require_none(listed.address, listed.problems)
    return listed.read().sound()


def read_unlabelled_table(
    name: str, preprocessing: AnyPreprocessing, options: DataOptions, field: str = "target"
) -> UnlabelledDomain:
    """Rows of a table, of which no column but that of the texts or images is read; otherwise `read_labelled_table`."""
    return UnlabelledTable(Address.of(name, field), preprocessing, options).read().sound()


@dataclass(frozen=True)
class UnlabelledTable:
    """A table whose cells are still to be made examples of.

    Attributes:
        address: Of the table.
        preprocessing: From a cell to a row.
        options: As in `read_labelled_table`.
    """

    address: Address
    preprocessing: AnyPreprocessing
    options: DataOptions

    @cached_property
    def columns(self) -> Columns:
        """Raises `InvalidInput` if there is no such table, or it lacks a column."""
        return read_columns(self.address, [self._content], self.address.field)

    @cached_property
    def problems(self) -> list[str]:
        """What can be wrong without a look at the examples: whether the table can be read."""
        return [] if self.columns.rows or self.columns.broken else [_EMPTY]

    def read(self) -> Reading[UnlabelledDomain]:
        """Make examples of the cells."""
        inputs, kept, reasons = self._examples({})
        problems, left_out = self._set_aside(reasons)
        domain = UnlabelledDomain(self.address.name, inputs, self._ids(kept))
        found = problems + self._nothing(kept)
        return Reading(self.address, domain, ROWS, tuple(found), left_out, self._texts(kept), {}, self._known(inputs))

    @property
    def _content(self) -> str:
        return self.options.text_column if self.options.modality == "text" else self.options.image_column

    def _examples(self, unusable: dict[int, str]) -> tuple[Inputs, list[int], dict[int, str]]:
        """Inputs of the usable rows, where in the columns these stand, and why others can't be used."""
        cells = self.columns.cells[self._content]
        if isinstance(self.preprocessing, TextPreprocessing):
            reasons = {at: why for at, cell in enumerate(cells) if (why := _why_no_text(cell))} | unusable
            kept = [at for at in range(len(cells)) if at not in reasons]
            return self.preprocessing.encode([str(cells[at]) for at in kept]), kept, reasons
        images, found = self._decoded(cells, self.preprocessing, unusable)
        reasons = found | unusable
        kept = [at for at in range(len(cells)) if at not in reasons]
        return images[kept], kept, reasons

    def _decoded(
        self, cells: Sequence[object], preprocessing: Preprocessing, unusable: dict[int, str]
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        side = preprocessing.image_size
        images = np.zeros((len(cells), preprocessing.channels, side, side), np.uint8)

        def decode(at: int) -> str | None:
            try:
                if at not in unusable:
                    images[at] = self._image(cells[at], preprocessing)
            except InvalidInput as error:
                return str(error)
            return None

        with ThreadPoolExecutor(THREADS) as threads:
            outcomes = list(threads.map(decode, range(len(cells))))
        return images, {at: why for at, why in enumerate(outcomes) if why is not None}

    def _image(self, cell: object, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Of a cell that holds an image, the path of one, or both, as `datasets` writes them."""
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, np.ndarray):
            return preprocessing.from_array(cell)
        if isinstance(cell, bytes):
            return preprocessing.decode(cell)
        if isinstance(cell, str) and cell.strip():
            return preprocessing.decode(self._read_beside(cell.strip()))
        raise InvalidInput("is empty" if not cell else f"holds {type(cell).__name__}, neither a path nor an image")

    def _read_beside(self, path: str) -> bytes:
        try:
            return (Address.of(path, "image") if "://" in path else self.address.beside(path)).read()
        except InvalidInput as error:
            raise InvalidInput(f"{path} {error}") from error

    def _set_aside(self, reasons: dict[int, str]) -> tuple[list[str], Counter[str]]:
        by_row = self.columns.broken | {self.columns.rows[at]: why for at, why in reasons.items()}
        named = {f"row {row}": why for row, why in sorted(by_row.items())}
        return set_aside(self.address, named, self.options.on_broken, ROWS)

    def _nothing(self, kept: Sequence[int]) -> list[str]:
        return [] if kept else [_EMPTY]

    def _ids(self, kept: Sequence[int]) -> tuple[str, ...]:
        return tuple(str(self.columns.rows[at]) for at in kept)

    def _known(self, inputs: Inputs) -> float | None:
        """Share of words that are known, where the one special token stands for those that are not."""
        if not isinstance(self.preprocessing, TextPreprocessing) or not inputs.size:
            return None
        vocabulary = self.preprocessing.vocabulary
        if vocabulary.special_ids != (vocabulary.mask_id,):
            return None
        return float((inputs[inputs >= 0] != vocabulary.mask_id).mean())

    def _texts(self, kept: Sequence[int]) -> tuple[str, ...] | None:
        if self.options.modality != "text":
            return None
        cells = self.columns.cells[self._content]
        return tuple(str(cells[at]) for at in kept)


@dataclass(frozen=True)
class LabelledTable(UnlabelledTable):
    """A table with labels, whose cells are still to be made examples of.

    Attributes:
        classes: Those of another domain; `None` for the table's own.
        further: Other columns that are read with them; those in `wanted` where they are there.
        wanted: As in `read_columns`.
    """

    classes: Sequence[str] | None = None
    further: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()

    @cached_property
    def columns(self) -> Columns:
        needed = dict.fromkeys((self._content, self.options.label_column, *self.further))
        return read_columns(self.address, list(needed), self.address.field, self.wanted)

    def read(self) -> Reading[LabelledDomain]:  # type: ignore[override]
        """Make examples of the cells."""
        labels, unlabelled = self._labels
        inputs, kept, reasons = self._examples(unlabelled)
        problems, left_out = self._set_aside(reasons)
        found, names = [str(labels[at]) for at in kept], self.names
        problems += self._nothing(kept) or class_problems(self._written(kept), found, self.classes, ROWS, names)
        place = {name: number for number, name in enumerate(names)}
        numbers = np.array([place[label] for label in found], dtype=np.int64)
        domain = LabelledDomain(self.address.name, inputs, self._ids(kept), numbers, names)
        asked = (*self.further, *self.wanted)
        columns = {name: [self.columns.cells[name][at] for at in kept] for name in asked if name in self.columns.cells}
        return Reading(
            self.address, domain, ROWS, tuple(problems), left_out, self._texts(kept), columns, self._known(inputs)
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the classes: those of the other domain, and then the table's own."""
        own = sorted({label for label in self._labels[0] if label is not None})
        known = tuple(self.classes or ())
        return (*known, *(name for name in own if name not in known))

    @cached_property
    def _labels(self) -> tuple[list[str | None], dict[int, str]]:
        column = self.options.label_column
        cells = self.columns.cells[column]
        if self.options.reader_version == 1:
            labels = [label_of_version_1(cell) for cell in cells]
            return labels, {at: f"has no {column!r}" for at, label in enumerate(labels) if label is None}
        return read_labels(cells, self.columns.class_names.get(column))

    def _written(self, kept: Sequence[int]) -> list[str]:
        """Class names as the table, or the description of its numbers, has them."""
        column = self.options.label_column
        if self.options.reader_version == 1:
            return []
        cells = self.columns.cells[column]
        return list(self.columns.class_names.get(column) or raw_names(cells[at] for at in kept))


_EMPTY = "has no usable rows; give a row for each example."


def _why_no_text(cell: object) -> str | None:
    if cell is None:
        return "is empty"
    return why_no_text(cell) if isinstance(cell, str) else f"holds {type(cell).__name__}, not text"
