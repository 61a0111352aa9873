"""Parts of a domain, the same for the same seed."""

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


def _counted(sizes: dict[str, int]) -> str:
    shown = ", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:10])
    return f"{shown}, ..." if len(sizes) > 10 else shown


def _chosen(rows: NDArray[np.int64], fraction: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of one class to hold out: at least one and not all, if there are two."""
    count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    return random.permutation(rows)[:count]
