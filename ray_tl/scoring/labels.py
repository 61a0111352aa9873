"""True classes of a target from a folder of class folders, a table, or the packaged digits."""

from collections.abc import Hashable, Sequence
from pathlib import Path

from ray_tl.data.addresses import Address
from ray_tl.data.class_problems import class_problems
from ray_tl.data.copies import Contents
from ray_tl.data.domains import DomainPair, UnlabelledDomain
from ray_tl.data.images import IMAGES, LabelledFolder
from ray_tl.data.labels import raw_names, read_labels
from ray_tl.data.legacy import label_of_version_1
from ray_tl.data.load import optdigits_oracle
from ray_tl.data.places import OPTDIGITS
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.reading import SHOWN, counted, require_none
from ray_tl.data.table_domains import ROWS, UnlabelledTable
from ray_tl.data.tables import Columns, is_table_at, read_columns
from ray_tl.errors import InvalidInput
from ray_tl.scoring.matching import By, GivenLabels
from ray_tl.search_space import DataOptions

FIELD = "labels"
PATHS = ("path", "file_name", "filename", "file")
ID = "id"


def read_given(stated: str, pair: DomainPair, places: dict[str, str], options: DataOptions) -> GivenLabels:
    """Read true classes.

    Args:
        stated: A folder with a folder for each class, a table with a column of labels, or `digits:optdigits`.
        pair: Of the study, read again.
        places: Where `target` and `target_test` are, by field: labels that lie there are found by name alone.
        options: Of the study: names of columns, and what to do with what can't be read.

    Raises:
        InvalidInput: If there is no such place, nothing says which example a label is of, or a class is not one of the
            source.
    """
    if stated.startswith("digits:"):
        return _digits(stated, pair)
    address = Address.of(stated, FIELD)
    own = next((field for field, place in places.items() if _is_same(address, place)), None)
    if options.modality == "text" or is_table_at(address):
        return _table(address, pair, own, options)
    return _folder(address, pair, own, options)


def names_in(domain: UnlabelledDomain, by: By, place: str, options: DataOptions) -> Sequence[str]:
    """What an example of a domain may be called in given labels: its path or id.

    Args:
        domain: Of the study.
        by: What it is to be found by.
        place: Where the domain is.
        options: Of the study.
    """
    if by != "path" or not _is_table(place):
        return domain.ids
    cells = _cells(place, options.image_column)
    return [_path(cells[id]) or id for id in domain.ids]


def contents_in(domain: UnlabelledDomain, by: By, place: str, options: DataOptions) -> Sequence[Hashable]:
    """What is in the examples of a domain, [N]; nothing where names alone count. Arguments as of `names_in`."""
    if by == "pixels":
        return _pixels(domain)
    if by != "text":
        return ()
    cells = _cells(place, options.text_column)
    return [str(cells[id]).strip() for id in domain.ids]


def _digits(stated: str, pair: DomainPair) -> GivenLabels:
    if stated != OPTDIGITS or not isinstance(pair.preprocessing, Preprocessing):
        raise InvalidInput(f"{FIELD}={stated!r} is not known; give {OPTDIGITS} for that target, a folder or a table.")
    labels = optdigits_oracle(pair.preprocessing).labels
    names, classes = list(labels), list(labels.values())
    return _known(GivenLabels(f"{FIELD}={stated!r}", "id", IMAGES, classes, names), classes, pair)


def _folder(address: Address, pair: DomainPair, own: str | None, options: DataOptions) -> GivenLabels:
    assert isinstance(pair.preprocessing, Preprocessing)
    folder = LabelledFolder(address, pair.preprocessing, options.on_broken, pair.source.classes)
    require_none(address, folder.problems)
    if own is not None:
        found = {name: label for name in folder.found.images if (label := folder.class_of(name)) is not None}
        return GivenLabels(str(address), "id", IMAGES, list(found.values()), list(found), domain=own)
    domain = folder.read().sound()
    classes = [domain.classes[label] for label in domain.labels]
    return GivenLabels(str(address), "pixels", IMAGES, classes, domain.ids, _pixels(domain))


def _table(address: Address, pair: DomainPair, own: str | None, options: DataOptions) -> GivenLabels:
    content = options.text_column if options.modality == "text" else options.image_column
    further = (content, ID) if options.modality == "text" else (content, *PATHS, ID)
    columns = read_columns(address, [options.label_column], FIELD, () if own is not None else further)
    labels, unlabelled = _labels(columns, options)
    kept = [at for at, label in enumerate(labels) if label is not None]
    classes = [str(labels[at]) for at in kept]
    notes = _left_out(columns, unlabelled)
    if not kept:
        raise InvalidInput(f"{address} has no row with a class in {options.label_column!r}; {'; '.join(notes)}.")
    by, names, contents = _keys(address, columns, kept, own, pair, options)
    given = GivenLabels(str(address), by, ROWS, classes, names, contents, own, tuple(notes))
    cells = [columns.cells[options.label_column][at] for at in kept]
    return _known(given, columns.class_names.get(options.label_column) or raw_names(cells), pair, options)


def _keys(
    address: Address,
    columns: Columns,
    kept: Sequence[int],
    own: str | None,
    pair: DomainPair,
    options: DataOptions,
) -> tuple[By, list[str | None], Sequence[Hashable]]:
    """What the rows of a table are found by, their names, and what is in them."""
    if own is not None:
        return "id", [str(columns.rows[at]) for at in kept], ()
    cells = {name: [column[at] for at in kept] for name, column in columns.cells.items()}
    ids: list[str | None] = [_name(cell) for cell in cells[ID]] if ID in cells else [None] * len(kept)
    if options.modality == "text" and options.text_column in cells:
        return "text", ids, [str(cell).strip() for cell in cells[options.text_column]]
    path = next((name for name in (options.image_column, *PATHS) if _holds_texts(cells.get(name))), None)
    if path is not None and options.modality != "text":
        return "path", [_name(cell) for cell in cells[path]], ()
    if options.image_column in cells and options.modality != "text":
        domain = UnlabelledTable(address, pair.preprocessing, options).read().sound()
        pixels = dict(zip(domain.ids, _pixels(domain), strict=True))
        return "pixels", ids, [pixels.get(str(columns.rows[at])) for at in kept]
    if ID in cells:
        return "id", ids, ()
    wanted = options.text_column if options.modality == "text" else f"{options.image_column}, {', '.join(PATHS)}"
    raise InvalidInput(f"{address} does not say which example a row is; give it a column {wanted} or {ID}.")


def _labels(columns: Columns, options: DataOptions) -> tuple[list[str | None], dict[int, str]]:
    cells = columns.cells[options.label_column]
    if options.reader_version == 1:
        labels = [label_of_version_1(cell) for cell in cells]
        return labels, {at: "has no label" for at, label in enumerate(labels) if label is None}
    return read_labels(cells, columns.class_names.get(options.label_column))


def _left_out(columns: Columns, unlabelled: dict[int, str]) -> list[str]:
    by_row = columns.broken | {columns.rows[at]: why for at, why in unlabelled.items()}
    if not by_row:
        return []
    shown = [f"row {row} {why}" for row, why in sorted(by_row.items())[:SHOWN]]
    more = "; ..." if len(by_row) > SHOWN else ""
    return [f"{counted(len(by_row), ROWS)} without a class that can be read ({'; '.join(shown)}{more})"]


def _known(
    given: GivenLabels, written: Sequence[str], pair: DomainPair, options: DataOptions | None = None
) -> GivenLabels:
    """The same, if all classes are those of the source."""
    names = [] if options is not None and options.reader_version == 1 else written
    problems = class_problems(names, list(given.classes), pair.source.classes, given.noun)
    if problems:
        shown = ", ".join(pair.source.classes[:SHOWN]) + (", ..." if pair.num_classes > SHOWN else "")
        raise InvalidInput(f"{given.stated} {'; '.join(problems)} The source has {shown}.")
    return given


def _pixels(domain: UnlabelledDomain) -> list[int]:
    keys: list[int] = Contents(domain.ids, domain.inputs).exact.tolist()
    return keys


def _cells(place: str, column: str) -> dict[str, object]:
    """The cells of a column of a domain's table, by id of the row."""
    columns = read_columns(Address.of(place, "target"), [column], "target")
    return {str(row): cell for row, cell in zip(columns.rows, columns.cells[column], strict=True)}


def _is_table(place: str) -> bool:
    return not place.startswith("digits:") and is_table_at(Address.of(place, "target"))


def _is_same(address: Address, place: str) -> bool:
    if place.startswith("digits:"):
        return False
    other = Address.of(place, "target")
    if address.local is not None and other.local is not None:
        return Path(address.local).resolve() == Path(other.local).resolve()
    return address.files == other.files and address.path.rstrip("/") == other.path.rstrip("/")


def _path(cell: object) -> str | None:
    """The path in a cell that holds one, as that of an image may."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    return path if isinstance(path, str) and path else None


def _holds_texts(cells: Sequence[object] | None) -> bool:
    return cells is not None and any(isinstance(cell, str) for cell in cells)


def _name(cell: object) -> str | None:
    """A cell as a name; a whole number as it is written without a point."""
    if cell is None or cell == "":
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)
