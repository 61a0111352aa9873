"""Who is near whom among the examples of a domain."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

NEAREST = 5
ROWS = 1000  # of a domain: about a minute of a large network on a processor
ROWS_A_CLASS = 10
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
        """How much oftener neighbours are of one class than any two rows are, of the most that could be; at most 1.

        (share of neighbours of one class - sum_c share_c^2) / (1 - 1 / C): 0 by chance, and when all are of one class.

        Args:
            classes: Of all examples of the domain, [N].
            num_classes: C.
        """
        own = classes[self.rows]
        shares = np.bincount(own, minlength=num_classes) / len(own)
        alike = float((own[self.nearest] == own[:, None]).mean())
        return (alike - float((shares**2).sum())) / (1 - 1 / num_classes)

    def save(self, file: IO[bytes]) -> None:
        np.savez(file, allow_pickle=False, rows=self.rows, nearest=self.nearest)

    @classmethod
    def load(cls, path: Path) -> "Neighbours":
        with np.load(path, allow_pickle=False) as file:
            return cls(file["rows"], file["nearest"])


@dataclass(frozen=True)
class LabelledSpace:
    """Neighbours among target examples, and how far the labels of the source bear the same space out.

    Attributes:
        neighbours: Of target examples.
        trust: Agreement of the source's own labels between source neighbours in the same space: 0 by chance, at most 1.
    """

    neighbours: Neighbours
    trust: float

    @property
    def can_be_trusted(self) -> bool:
        return self.trust >= LEAST_TRUST

    def save(self, file: IO[bytes]) -> None:
        np.savez(file, allow_pickle=False, trust=self.trust, **vars(self.neighbours))

    @classmethod
    def load(cls, path: Path) -> "LabelledSpace":
        with np.load(path, allow_pickle=False) as file:
            return cls(Neighbours(file["rows"], file["nearest"]), float(file["trust"]))


def num_looked_at(num_classes: int, num_rows: int = ROWS) -> int:
    """How many rows of a domain are looked at: more than `num_rows` only where that is too few for its classes."""
    return max(num_rows, ROWS_A_CLASS * num_classes)


def nearest_neighbours(features: NDArray[np.floating], rows: NDArray[np.int64]) -> Neighbours:
    """By the cosine of centred features.

    Args:
        features: Of the rows, [R, D], R >= 2.
        rows: Which rows of the domain they are, [R].
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return Neighbours(rows, np.argsort(-cosine, axis=1, kind="stable")[:, : min(NEAREST, len(rows) - 1)])
