"""From cells and folder names to classes: one rule for tables and folders of every kind."""

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

import numpy as np

NO_LABEL = -1
"""What `datasets` writes where a label is missing."""

# As pandas reads them, in this case alone: Na is sodium, and Nan is bread. None may be a class, such as no damage.
_MISSING = frozenset({"nan", "NaN", "-nan", "-NaN", "NA", "<NA>", "N/A", "n/a", "#N/A", "#NA", "NULL", "null", "NaT"})
_WHOLE = re.compile(r"([+-]?)0*(\d+?)(\.0*)?", re.ASCII)
SHOWN = 5


def read_labels(cells: Sequence[object], names: Sequence[str] | None = None) -> tuple[list[str | None], dict[int, str]]:
    """The class of each cell.

    A class is a text without blanks around it, in Unicode's composed form (NFC), or a whole number or truth value as
    such a text. Missing values, in any spelling that tables have for them, are no classes.

    Args:
        cells: Of a column.
        names: Of the classes, where the cells are their numbers.

    Returns:
        A class for each cell, `None` where there is none; and why not, by its place.
    """
    found: dict[int, str] = {}
    labels: list[str | None] = []
    for at, cell in enumerate(cells):
        label, why = _read(cell, names)
        labels.append(label)
        if why is not None:
            found[at] = why
    numbers = {label: _key(label) for label in set(labels) if label is not None}
    if {str(NO_LABEL), "0"} <= set(numbers.values()):  # classes are numbered from 0 on
        marked = [at for at, label in enumerate(labels) if label is not None and numbers[label] == str(NO_LABEL)]
        stands = "which stands for none where classes are numbered from 0: if it is a class, rename it"
        found |= dict.fromkeys(marked, f"has the label -1, {stands}")
        labels = [None if at in found else label for at, label in enumerate(labels)]
    return labels, found


def clean_name(name: str) -> str:
    """A class name without blanks around it, composed (NFC)."""
    return unicodedata.normalize("NFC", name).strip()


def alike_problems(raw: Collection[str], others: Collection[str] = ()) -> list[str]:
    """Class names that differ by blanks, case, Unicode form or notation of a number alone, a line for each group.

    Args:
        raw: Names as they are written in one domain.
        others: Of another domain, which may not be like these without being the same.
    """
    groups: dict[str, dict[str, None]] = {}
    for name in (*raw, *others):
        groups.setdefault(_key(name), {})[name] = None
    new = set(raw) - set(others)
    return [
        f"classes {' and '.join(map(repr, names))} differ by case, blanks or notation alone; write them in one way, or "
        "rename one if they are two."
        for names in groups.values()
        if len(names) > 1 and not new.isdisjoint(names)
    ]


def raw_names(cells: Iterable[object]) -> list[str]:
    """The texts of a column as they are written, each once."""
    return list(dict.fromkeys(_written(cell) for cell in cells))


def _read(cell: object, names: Sequence[str] | None) -> tuple[str | None, str | None]:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None, "has no label"
    if isinstance(cell, list | tuple | dict | bytes | np.ndarray):
        return None, f"holds {type(cell).__name__} as its label, and a row has one class"
    if names is not None and isinstance(cell, int) and not isinstance(cell, bool):
        return _named(int(cell), names)
    text = clean_name(_written(cell))
    if not text or text in _MISSING:
        return None, f"has no label ({text!r})" if text else "has no label"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return None, "has half of a surrogate pair in its label"
    return text, None


def _named(number: int, names: Sequence[str]) -> tuple[str | None, str | None]:
    if 0 <= number < len(names):
        return clean_name(names[number]), None
    if number == NO_LABEL:
        return None, "has the label -1, which stands for none"
    return None, f"has the label {number}, and there are the classes 0..{len(names) - 1}"


def _written(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))  # a column of whole numbers with a gap is one of floats to many writers
    return str(cell)


def _key(name: str) -> str:
    """The same for names that users take for one."""
    seen = "".join(letter for letter in name if unicodedata.category(letter) not in ("Cc", "Cf") or letter.isspace())
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen.strip()).casefold())
    number = _WHOLE.fullmatch(plain)
    if number is None:
        return plain
    return number[2] if number[1] != "-" or number[2] == "0" else f"-{number[2]}"
