"""What came of reading a domain: its examples, what was left out, and what no search can go on with."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.addresses import Address
from ray_tl.data.copies import Contents
from ray_tl.data.domains import UnlabelledDomain
from ray_tl.errors import all_at_once

Domain = TypeVar("Domain", bound=UnlabelledDomain)
OnBroken = Literal["stop", "skip"]
SHOWN = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading(Generic[Domain]):
    """A domain as it was read.

    Attributes:
        address: Where from.
        domain: What can be used of it; where there are problems, it may be empty.
        noun: What its examples are, in the plural: `images` or `rows`.
        problems: Each of which ends a search.
        left_out: How many files or rows are not in the domain, by reason.
        texts: Of the examples, as they were written; `None` for images.
        columns: Further columns of a table, one value for each example.
        known_words: Share of the words of texts that a file of word vectors knows; `None` for other data.
    """

    address: Address
    domain: Domain
    noun: str
    problems: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    texts: tuple[str, ...] | None = None
    columns: Mapping[str, list[object]] = field(default_factory=dict)
    known_words: float | None = None

    @cached_property
    def contents(self) -> Contents:
        """For the comparison with other domains."""
        return Contents(self.domain.ids, self.domain.inputs, self.texts)

    def sound(self) -> Domain:
        """The domain.

        Raises:
            InvalidInput: With all problems at once.
        """
        require_none(self.address, self.problems)
        return self.domain

    def without(self, rows: Sequence[int] | NDArray[np.int64], reason: str) -> "Reading[Domain]":
        """The same with these rows left out."""
        kept = np.setdiff1d(np.arange(len(self.domain)), rows)
        texts = None if self.texts is None else tuple(self.texts[row] for row in kept)
        columns = {name: [cells[row] for row in kept] for name, cells in self.columns.items()}
        left_out = {**self.left_out, reason: len(self.domain) - len(kept)}
        return replace(self, domain=self.domain.take(kept), texts=texts, columns=columns, left_out=left_out)


def require_none(address: Address, problems: Sequence[str]) -> None:
    """Raise `InvalidInput` with all of these, if there are any."""
    if problems:
        raise all_at_once(str(address), problems)


def set_aside(
    address: Address, reasons: Mapping[str, str], on_broken: OnBroken, noun: str
) -> tuple[list[str], Counter[str]]:
    """What becomes of examples that can't be used.

    Args:
        address: Of their domain.
        reasons: Why not, by what names the example: `row 3`, `cat/a.png:`.
        on_broken: `stop` makes them a problem, `skip` leaves them out, counts and logs them.
        noun: In the plural: `images` or `rows`.

    Returns:
        Problems, and how many were left out by reason.
    """
    if not reasons:
        return [], Counter()
    lines = [f"{name} {why.rstrip('.')}" for name, why in reasons.items()]
    if on_broken == "stop":
        more = "; ..." if len(lines) > SHOWN else ""
        listed = "; ".join(lines[:SHOWN])
        stated = f"{counted(len(lines), noun)} can't be used ({listed}{more})"
        return [f"{stated}; repair or remove them, or leave them out: --on-broken skip."], Counter()
    for line in lines:
        _log.warning("%s: left out %s", address.field, line)
    return [], Counter(f"unusable {noun}: {_kind(why)}" for why in reasons.values())


def counted(count: int, noun: str) -> str:
    """A number of things; the noun is given in the plural."""
    return f"1 {noun.removesuffix('s')}" if count == 1 else f"{count} {noun}"


def _kind(reason: str) -> str:
    """A reason without what is of one example alone."""
    return re.split(r" \(|[;:]", reason, maxsplit=1)[0].rstrip(".")
