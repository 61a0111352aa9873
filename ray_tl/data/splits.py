"""Parts of a domain, the same for the same seed."""

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.domains import LabelledDomain, UnlabelledDomain
from ray_tl.errors import InvalidInput

Domain = TypeVar("Domain", bound=UnlabelledDomain)


def stratified_split(domain: LabelledDomain, fraction: float, seed: int) -> tuple[LabelledDomain, LabelledDomain]:
    """The rest and a held-out part with about `fraction` of each class, both in the domain's order.

    Each part has every class that has two examples; a single example stays in the rest.

    Args:
        domain: What is split.
        fraction: In (0, 1).
        seed: Decides which examples are held out.

    Raises:
        InvalidInput: If `fraction` is out of range.
    """
    if not 0 < fraction < 1:
        raise InvalidInput(f"fraction={fraction} is out of range; choose between 0 and 1, both excluded.")
    random = np.random.default_rng(seed)
    chosen = [_chosen(np.flatnonzero(domain.labels == label), fraction, random) for label in np.unique(domain.labels)]
    held_out = np.zeros(len(domain), dtype=bool)
    held_out[np.concatenate(chosen)] = True
    return domain.take(np.flatnonzero(~held_out)), domain.take(np.flatnonzero(held_out))


def grouped_split(
    domain: LabelledDomain, groups: NDArray[np.int64], fraction: float, seed: int
) -> tuple[LabelledDomain, LabelledDomain]:
    """As `stratified_split`, with examples of one group on one side.

    Groups are held out in random order as long as that brings the classes nearer to their share; a class keeps at
    least one example in the rest.

    Args:
        domain: What is split.
        groups: A number for each example, [N].
        fraction: In (0, 1).
        seed: Decides which groups are held out.

    Raises:
        InvalidInput: If `fraction` is out of range, or all examples are of one group.
    """
    numbers, members = np.unique(groups, return_inverse=True)
    if len(numbers) == len(domain):
        return stratified_split(domain, fraction, seed)
    if len(numbers) < 2:
        raise InvalidInput(f"{domain.name!r} has a single group, so nothing can be held out; split by something else.")
    counts = np.zeros((len(numbers), len(domain.classes)), dtype=np.int64)
    np.add.at(counts, (members, domain.labels), 1)
    left = counts.sum(axis=0)
    missing = np.where(left > 1, np.clip(np.round(left * fraction), 1, None), 0)
    held_out = np.zeros(len(numbers), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(numbers))
    for group in order:
        count = counts[group]
        if np.abs(missing - count).sum() < np.abs(missing).sum() and (left - count)[count > 0].min() > 0:
            held_out[group] = True
            missing, left = missing - count, left - count
    if not held_out.any():
        held_out[_smallest_spare(counts, order, domain)] = True
    chosen = held_out[members]
    return domain.take(np.flatnonzero(~chosen)), domain.take(np.flatnonzero(chosen))


def temporal_split(
    domain: LabelledDomain, times: Sequence[object], fraction: float
) -> tuple[LabelledDomain, LabelledDomain]:
    """The earlier examples, and about `fraction` of them that are the latest; of one time all are on one side.

    Args:
        domain: What is split.
        times: Of the examples, [N]: numbers, dates, or texts of either (ISO 8601).
        fraction: In (0, 1).

    Raises:
        InvalidInput: If a time can't be read, all are the same, or a class has none but the latest examples.
    """
    read = [_time(value, row) for value, row in zip(times, domain.ids, strict=True)]
    if len({is_date for is_date, _ in read}) > 1:
        raise InvalidInput(f"{domain.name!r} has numbers and dates for times; write all of them in one way.")
    order = np.array([number for _, number in read])
    first_late = np.sort(order)[len(order) - max(1, round(len(order) * fraction))]
    late = order >= first_late
    if late.all():
        late = order > first_late
    if not late.any():
        raise InvalidInput(f"{domain.name!r} has one time for all examples; split by something else than time.")
    if lost := sorted(set(domain.labels[late].tolist()) - set(domain.labels[~late].tolist())):
        names = ", ".join(domain.classes[label] for label in lost[:10])
        raise InvalidInput(f"the classes {names} are among the latest examples alone; hold out a smaller fraction.")
    return domain.take(np.flatnonzero(~late)), domain.take(np.flatnonzero(late))


def few_shots(domain: LabelledDomain, shots: int, seed: int) -> LabelledDomain:
    """`shots` examples of each class that occurs, drawn at random, in the domain's order.

    Raises:
        InvalidInput: If a class has fewer.
    """
    random = np.random.default_rng(seed)
    rows = {label: np.flatnonzero(domain.labels == label) for label in np.unique(domain.labels)}
    lacking = {domain.classes[label]: len(found) for label, found in rows.items() if len(found) < shots}
    if lacking:
        raise InvalidInput(
            f"target_shots={shots} is more than target_labelled has of some classes ({_counted(lacking)}); choose "
            f"{min(lacking.values())} or fewer, or label more."
        )
    chosen = [random.permutation(found)[:shots] for found in rows.values()]
    return domain.take(np.sort(np.concatenate(chosen)))


def class_halves(domain: LabelledDomain, seed: int) -> tuple[LabelledDomain, LabelledDomain]:
    """Two disjoint halves of each class that occurs, drawn at random, in the domain's order: to train on, to choose by.

    The first has the odd example of a class.

    Raises:
        InvalidInput: If a class has a single example.
    """
    random = np.random.default_rng(seed)
    rows = {label: random.permutation(np.flatnonzero(domain.labels == label)) for label in np.unique(domain.labels)}
    if single := [domain.classes[label] for label, found in rows.items() if len(found) < 2]:
        more = ", ..." if len(single) > 10 else ""
        have = "have 1 each" if len(single) > 1 else "has 1"
        raise InvalidInput(
            f"target_labels_for='both' halves the labelled target examples of each class, and {', '.join(single[:10])}"
            f"{more} {have}; label 2 or more of each class, or choose target_labels_for: training or choice."
        )
    first = np.sort(np.concatenate([found[: (len(found) + 1) // 2] for found in rows.values()]))
    second = np.sort(np.concatenate([found[(len(found) + 1) // 2 :] for found in rows.values()]))
    return domain.take(first), domain.take(second)


def random_halves(domain: Domain, seed: int) -> tuple[Domain, Domain]:
    """Two disjoint halves in the domain's order; the first has the odd example.

    Raises:
        InvalidInput: If there are fewer than two examples.
    """
    if len(domain) < 2:
        raise InvalidInput(f"{domain.name!r} has {len(domain)} examples, too few to halve; give 2 or more.")
    order = np.random.default_rng(seed).permutation(len(domain))
    middle = (len(domain) + 1) // 2
    return domain.take(np.sort(order[:middle])), domain.take(np.sort(order[middle:]))


def _smallest_spare(counts: NDArray[np.int64], order: NDArray[np.int64], domain: LabelledDomain) -> int:
    """The smallest group without which every class is still there, where groups are larger than what is to be held out.

    Raises:
        InvalidInput: If there is none.
    """
    left = counts.sum(axis=0)
    spare = [int(group) for group in order if (left - counts[group])[counts[group] > 0].min() > 0]
    if not spare:
        raise InvalidInput(
            f"{domain.name!r} can't be split by these groups: each holds all of a class; choose smaller groups."
        )
    return min(spare, key=lambda group: int(counts[group].sum()))


def _time(value: object, row: str) -> tuple[bool, float]:
    """Whether it is a date; and seconds, or whatever a number counts. A time without a zone is one of UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, datetime):
        return True, (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return False, float(value)
    raise InvalidInput(f"row {row} holds {value!r}, which is no number or date that is read; write 2026-01-31T12:00.")


def _parsed(text: str) -> object:
    for parse in (float, datetime.fromisoformat):
        with suppress(ValueError):
            return parse(text.strip())
    return text


def _counted(sizes: dict[str, int]) -> str:
    shown = ", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:10])
    return f"{shown}, ..." if len(sizes) > 10 else shown


def _chosen(rows: NDArray[np.int64], fraction: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of one class to hold out: at least one and not all, if there are two."""
    count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    return random.permutation(rows)[:count]
