"""What is asked of a table, and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.registry import did_you_mean


@dataclass(frozen=True)
class Asked:
    """Columns that are asked for.

    Attributes:
        subject: What the table is, for messages: `source='reviews.csv'`.
        needed: Names of columns that must be there.
        wanted: Of those that are read where they are there.
    """

    subject: str
    needed: tuple[str, ...]
    wanted: tuple[str, ...] = ()

    def among(self, present: Sequence[str]) -> list[str]:
        """The columns to read.

        Raises:
            InvalidInput: If a needed one is missing, or one is there more than once; all at once.
        """
        if not present:
            raise InvalidInput(f"{self.subject} has no rows; give a table with a header and a row for each example.")
        problems = [
            f"has no column {name!r}{did_you_mean(name, list(present))}" for name in self.needed if name not in present
        ]
        read = [name for name in dict.fromkeys((*self.needed, *self.wanted)) if name in present]
        problems += [
            f"has the column {name!r} {count} times; remove or rename all but one."
            for name in read
            if (count := list(present).count(name)) > 1
        ]
        if problems:
            raise all_at_once(self.subject, problems)
        return read


@dataclass(frozen=True)
class Columns:
    """Cells of the columns that were asked for; no other column has been kept.

    Attributes:
        cells: By column, each with one value for each row; `None` for an empty cell.
        rows: Number of each row in the file, counted from 1, the header not being one.
        broken: Why a row of the file has no cells, by its number.
        class_names: Of columns whose cells are numbers of classes, by column.
    """

    cells: dict[str, list[object]]
    rows: list[int]
    broken: dict[int, str] = field(default_factory=dict)
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def whole(cls, cells: dict[str, list[object]], class_names: dict[str, tuple[str, ...]] | None = None) -> "Columns":
        """Columns of a table in which no row is broken."""
        return cls(cells, list(range(1, len(next(iter(cells.values()))) + 1)), {}, class_names or {})


def class_names_of(features: object) -> dict[str, tuple[str, ...]]:
    """Names of classes by column, from the features that `datasets` describes a table by."""
    if not isinstance(features, dict):
        return {}
    return {
        column: tuple(map(str, feature["names"]))
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }
