"""Which examples of a domain the given labels belong to: by what is in them, and by their names."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

By = Literal["id", "path", "pixels", "text"]
"""What examples are found by: ids of the domain, paths of files, equal pixels, or equal texts."""


@dataclass(frozen=True)
class GivenLabels:
    """True classes of examples that are still to be found in a domain.

    Attributes:
        stated: Where they are from, for messages: `labels='test.csv'`.
        by: What they are found by.
        noun: What an example is, in the plural: `images` or `rows`.
        classes: [K].
        names: A path or id of each, [K]; `None` where it has none. Between copies they decide, where `by` is contents.
        contents: What is in each, [K]; empty where names alone count.
        domain: `target` or `target_test`, if the labels lie where that does; they are of no other then.
        notes: What users should know of them.
    """

    stated: str
    by: By
    noun: str
    classes: Sequence[str]
    names: Sequence[str | None]
    contents: Sequence[Hashable] = ()
    domain: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """What was found in a domain.

    Attributes:
        classes: Of a row of the domain; two or more where the labels contradict each other.
        used: Which of the labels belong to a row.
    """

    classes: dict[int, tuple[str, ...]]
    used: frozenset[int]

    @property
    def contradictions(self) -> dict[int, tuple[str, ...]]:
        """Rows with more than one class."""
        return {row: found for row, found in self.classes.items() if len(found) > 1}


def match(given: GivenLabels, names: Sequence[str], contents: Sequence[Hashable]) -> Match:
    """Find the rows that labels belong to.

    Where contents are given, a label belongs to every row of equal contents, or, if one of these has its name, to that
    row alone. Elsewhere it belongs to the row of its name: the same path, or one that ends as the other does, if that
    is so of a single row.

    Args:
        given: The labels.
        names: Paths or ids in the domain, [N].
        contents: What is in its rows, [N]; empty where `given.contents` is.
    """
    by_name = _Names(names)
    by_content = defaultdict(list)
    for row, content in enumerate(contents):
        by_content[content].append(row)
    named: dict[int, dict[str, None]] = defaultdict(dict)
    alike: dict[int, dict[str, None]] = defaultdict(dict)
    used = set()
    for at, (label, name) in enumerate(zip(given.classes, given.names, strict=True)):
        by_its_name = [] if name is None else by_name.rows(name)
        rows = by_content.get(given.contents[at], []) if len(given.contents) else by_its_name
        its_own = [row for row in rows if row in by_its_name]
        if rows:
            used.add(at)
        for row in its_own or rows:
            (named if its_own else alike)[row][label] = None
    return Match({row: tuple(named.get(row) or alike[row]) for row in sorted({*named, *alike})}, frozenset(used))


class _Names:
    """Rows by path or id."""

    def __init__(self, names: Sequence[str]) -> None:
        self._whole = {_normal(name): row for row, name in enumerate(names)}
        self._ends: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(names):
            for end in _ends(_normal(name)):
                self._ends[end].append(row)

    def rows(self, name: str) -> list[int]:
        """The row of this name, in a list; an empty one if there is none, or several that end so."""
        name = _normal(name)
        for end in (name, *_ends(name)):
            if end in self._whole:
                return [self._whole[end]]
        ending = self._ends.get(name, [])
        return ending if len(ending) == 1 else []


def _normal(name: str) -> str:
    return PurePosixPath(name.strip()).as_posix()


def _ends(path: str) -> Iterator[str]:
    """The path without its first part, its first two parts, ..."""
    parts = PurePosixPath(path).parts
    return ("/".join(parts[start:]) for start in range(1, len(parts)))
