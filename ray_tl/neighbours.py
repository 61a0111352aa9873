"""k-nearest-neighbour graphs among the examples of a domain, and across domains."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS_FILE = "neighbours.npz"  # in the folder of a study, the space in which its trials are judged
NEAREST = 5
ROWS = 1000  # of a domain: about a minute of a large network on a processor
ROWS_A_CLASS = 10
MOST_ROWS = 5000  # features of each are held in float64: 80 MB where they are 2,048 wide
CHUNK = 500  # rows whose similarities to all others are held at once: 20 MB for `MOST_ROWS`
LEAST_TRUST = 0.3


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours among some rows of a domain.

    Attributes:
        rows: Of the domain, int64 [R].
        nearest: Positions within `rows` of the neighbours of each, int64 [R, K]; never itself.
    """

    rows: NDArray[np.int64]
    nearest: NDArray[np.int64]

    def agreement(self, classes: NDArray[np.int64], num_classes: int) -> float:
        """How much more often neighbours are of one class than any two rows are, of the most that could be; at most 1.

        Cohen's kappa, (share of neighbours of one class - sum_c share_c^2) / (1 - sum_c share_c^2): 0 by chance, and
        when all are of one class. Uneven classes are no drawback: rows that are all beside their like score 1.

        Args:
            classes: Of all examples of the domain, [N].
            num_classes: C.
        """
        own = classes[self.rows]
        shares = np.bincount(own, minlength=num_classes) / len(own)
        alike = float((own[self.nearest] == own[:, None]).mean())
        return kappa(alike, float((shares**2).sum()))


@dataclass(frozen=True)
class LabelledSpace:
    """Neighbours of target examples, and how far the labels of the source bear the same space out.

    Attributes:
        neighbours: k-nearest-neighbour graph among target examples.
        trust: Agreement of the source's own labels between source neighbours in the same space: 0 by chance, at most 1.
        votes: Share of each class among the nearest labelled source examples of each target example, [R, C]; `None` in
            older studies.
    """

    neighbours: Neighbours
    trust: float
    votes: NDArray[np.floating] | None = None

    @property
    def can_be_trusted(self) -> bool:
        return self.trust >= LEAST_TRUST

    def label_agreement(self, classes: NDArray[np.int64]) -> float:
        """How much more often predictions are the label of a near source example than by chance; at most 1.

        Cohen's kappa of predictions and labels of the nearest source examples, one drawn at random for each.

        Args:
            classes: Of all examples of the domain, [N].
        """
        assert self.votes is not None
        own = classes[self.neighbours.rows]
        shares = np.bincount(own, minlength=self.votes.shape[1]) / len(own)
        alike = np.take_along_axis(self.votes, own[:, None], axis=1).mean()
        return kappa(float(alike), float(shares @ self.votes.mean(axis=0)))

    def save(self, file: IO[bytes]) -> None:
        votes = {} if self.votes is None else {"votes": self.votes.astype(np.float16)}
        np.savez(file, allow_pickle=False, trust=np.array(self.trust), **vars(self.neighbours), **votes)

    @classmethod
    def load(cls, path: Path) -> "LabelledSpace":
        with np.load(path, allow_pickle=False) as file:
            votes = file["votes"].astype(np.float32) if "votes" in file.files else None
            trust = float(file["trust"]) if "trust" in file.files else 1.0  # an older study kept what it could trust
            return cls(Neighbours(file["rows"], file["nearest"]), trust, votes)


def kappa(agreement: float, by_chance: float) -> float:
    """Agreement beyond chance, of the most that could be: Cohen, "A Coefficient of Agreement for Nominal Scales", 1960.

    At most 1, 0 by chance, and 0 where there is nothing but chance.
    """
    return (agreement - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def num_looked_at(num_classes: int, num_rows: int = ROWS) -> int:
    """How many rows of a domain are looked at.

    More than `num_rows` only where that is too few for its classes, and never more than `MOST_ROWS`.
    """
    return min(max(num_rows, ROWS_A_CLASS * num_classes), MOST_ROWS)


def nearest_neighbours(features: NDArray[np.floating], rows: NDArray[np.int64]) -> Neighbours:
    """By the cosine of centred features; of two that are equally near, the one that comes first is nearer.

    Args:
        features: Of the rows, [R, D], R >= 2.
        rows: Which rows of the domain they are, [R].
    """
    unit = _unit(features)
    nearest = np.empty((len(unit), min(NEAREST, len(unit) - 1)), np.int64)
    for start in range(0, len(unit), CHUNK):
        cosine = unit[start : start + CHUNK] @ unit.T
        own = np.arange(len(cosine))
        cosine[own, start + own] = -np.inf
        nearest[start : start + CHUNK] = _largest(cosine, nearest.shape[1])
    return Neighbours(rows, nearest)


def nearest_across(queries: NDArray[np.floating], keys: NDArray[np.floating], k: int = NEAREST) -> NDArray[np.int64]:
    """Nearest rows of another domain, the nearest first, as positions in `keys`, int64 [R, min(k, S)].

    By the cosine of features, those of each domain less the mean of its own: a shift of all of a domain, which is what
    networks add to a domain that they were not trained on, moves no neighbour. By the mean of the keys it would turn
    all queries the same way. Where the classes are mixed otherwise in the two domains, the means differ for that reason
    too, and centring hides it. Of two that are equally near, the one that comes first is nearer.

    Args:
        queries: [R, D], R >= 1, of the target for example.
        keys: [S, D], S >= 1, of the labelled source for example. The mean of a single row is itself: it is near nobody.
        k: Neighbours of each, at least 1.
    """
    unit, others = _unit(queries), _unit(keys)
    nearest = np.empty((len(unit), min(k, len(others))), np.int64)
    for start in range(0, len(unit), CHUNK):
        nearest[start : start + CHUNK] = _largest(unit[start : start + CHUNK] @ others.T, nearest.shape[1])
    return nearest


def _unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """Centred rows of length 1, or 0 where they lie on the mean."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    unit: NDArray[np.float64] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return unit


def _largest(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Columns of the k largest of each row as a stable sort would order them, [R, k]."""
    bound = -np.partition(-values, k - 1, axis=1)[:, k - 1 : k]
    found = np.empty((len(values), k), np.int64)
    tied = np.count_nonzero(values >= bound, axis=1) > k  # a partition takes any of those that tie for the last place
    found[tied] = np.argsort(-values[tied], axis=1, kind="stable")[:, :k]
    columns = np.nonzero(values[~tied] >= bound[~tied])[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(values[~tied], columns, axis=1), axis=1, kind="stable")
    found[~tied] = np.take_along_axis(columns, order, axis=1)
    return found
