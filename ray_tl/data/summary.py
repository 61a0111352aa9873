"""What was read, in numbers and in words: shown before a search, kept with the study, and what `data check` prints."""

from pydantic import BaseModel, ConfigDict, Field

UNEQUAL = 5
"""So many times as large as the smallest, the largest class makes a source unequal."""

BALANCE_FIELD = "class_balance"


class ClassSize(BaseModel):
    """A class and how many examples it has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int


class DomainSummary(BaseModel):
    """One domain.

    Attributes:
        field: What it is in the search: `source`, `target`, `target_test`, ...
        stated: Where it was read from, as it was given.
        noun: What its examples are, in the plural.
        classes: Number of classes; `None` without labels.
        smallest: The smallest class.
        largest: The largest class.
        held_out: Examples that are never trained on; of the source alone.
        left_out: How many files or rows are not in it, by reason.
        use: What its labels are for, where that is not what they are usually for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    stated: str
    size: int
    noun: str = "images"
    classes: int | None = None
    smallest: ClassSize | None = None
    largest: ClassSize | None = None
    held_out: int | None = None
    left_out: dict[str, int] = Field(default_factory=dict)
    use: str = ""

    @property
    def imbalance(self) -> float:
        """Size of the largest class relative to the smallest; 1 without classes, or where one is empty."""
        if self.smallest is None or self.largest is None or not self.smallest.size:
            return 1.0
        return self.largest.size / self.smallest.size

    def __str__(self) -> str:
        parts = [f"{self.size} {self.noun}"]
        if self.classes is not None and self.smallest is not None and self.largest is not None:
            sizes = f"{self.smallest.size} ({self.smallest.name}) to {self.largest.size} ({self.largest.name})"
            equal = self.smallest.size == self.largest.size
            parts[0] += f" in {self.classes} {'class' if self.classes == 1 else 'classes'}, " + (
                f"{self.smallest.size} each" if equal else f"{sizes} each"
            )
        if self.held_out is not None:
            parts.append(f"{self.held_out} held out")
        if self.use:
            parts.append(self.use)
        line = f"{self.field}: {', '.join(parts)}"
        if not self.left_out:
            return line
        return f"{line}; left out: {', '.join(f'{reason} ({count})' for reason, count in self.left_out.items())}"


class DataSummary(BaseModel):
    """All domains of a search.

    Attributes:
        domains: In the order in which they are given.
        overlaps: A sentence for each two domains that have copies of one another, and for copies that stand on both
            sides of the hold-out.
        notes: What else users should know, a sentence each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: tuple[DomainSummary, ...] = ()
    overlaps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self, is_balanced: bool = False) -> list[str]:
        """The summary for people.

        Args:
            is_balanced: Whether the search space says already what to do about unequal classes.
        """
        shown = [*map(str, self.domains), *(f"overlap: {line}" for line in self.overlaps)]
        shown += [f"note: {line}" for line in self.notes]
        unequal = [each for each in self.domains if each.field == "source" and each.imbalance >= UNEQUAL]
        return shown if is_balanced else [*shown, *map(_remedy, unequal)]


def _remedy(source: DomainSummary) -> str:
    assert source.smallest is not None
    assert source.largest is not None
    return (
        f"unequal classes: {source.largest.name!r} has {source.imbalance:.0f} times as many {source.noun} as "
        f"{source.smallest.name!r}; add {BALANCE_FIELD}: {{choice: [none, sampling, weights]}} under trial: in the "
        "search space (smote: for frozen features)."
    )
