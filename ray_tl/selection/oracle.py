"""What the search could not see: how good trials are by the true classes of the target. No search may read this."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from ray_tl.data.domains import OracleLabels
from ray_tl.validation import metrics

TWO_SIDED_95_PERCENT = 1.959964  # quantile of the normal distribution

Rows = NDArray[np.int64]
Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def summary(self) -> dict[str, float]:
        """Plain values for `--json`."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Score:
    """How good the predictions of a trial are on labelled rows.

    Attributes:
        accuracy: In [0, 1].
        further: Other metrics by name, as of `ray_tl.validation.metrics.summary`.
        recalls: By class, [C]; `None` for a class without a labelled row.
        confusion: How many rows of each true class were given each class, [C][C].
    """

    accuracy: Interval
    further: dict[str, float]
    recalls: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def support(self) -> tuple[int, ...]:
        """Labelled rows of each class, [C]."""
        return tuple(map(sum, self.confusion))


@dataclass(frozen=True)
class PairedDifference:
    """How much more accurate a trial is than another on the same rows.

    Attributes:
        difference: Of the accuracies, in [-1, 1].
        only_first: Rows that the first alone predicts rightly.
        only_second: Rows that the second alone predicts rightly.
        p_value: Of McNemar's exact test: how likely so unequal counts are for two trials that are equally good.
    """

    difference: Interval
    only_first: int
    only_second: int
    p_value: float


def oracle_accuracy(
    probabilities: NDArray[np.float32], ids: Sequence[str], classes: Sequence[str], oracle: OracleLabels
) -> float:
    """Share of examples whose likeliest class is the true one, in [0, 1].

    Args:
        probabilities: As a trial recorded them, [N, C].
        ids: Of the examples, N.
        classes: Names of the C classes.
        oracle: Must know every id.
    """
    predicted = probabilities.argmax(axis=1)
    return float(np.mean([classes[row] == oracle.labels[key] for row, key in zip(predicted, ids, strict=True)]))


def true_labels(rows: Rows, ids: Sequence[str], classes: Sequence[str], oracle: OracleLabels) -> tuple[Rows, Rows]:
    """Which of some rows have a true class, as places in `rows`, [K], and the numbers of these classes, [K].

    Args:
        rows: Of a domain, [R].
        ids: Of the whole domain.
        classes: Names of the C classes.
        oracle: May know some ids alone.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    found = [(at, numbers[oracle.labels[ids[row]]]) for at, row in enumerate(rows) if ids[row] in oracle.labels]
    places, labels = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return places, labels


def score(probabilities: NDArray[np.float32], labels: Rows) -> Score:
    """All that is said of predictions with known classes.

    Args:
        probabilities: Softmax outputs, [K, C], K >= 1.
        labels: True classes, [K].
    """
    further = metrics.summary(probabilities, labels)
    del further["accuracy"]
    found = metrics.recalls(probabilities, labels).tolist()
    return Score(
        accuracy=wilson(int(hits(probabilities, labels).sum()), len(labels)),
        further=further,
        recalls=tuple(None if math.isnan(recall) else recall for recall in found),
        confusion=tuple(map(tuple, metrics.confusion(probabilities, labels).tolist())),
    )


def hits(probabilities: NDArray[np.float32], labels: Rows) -> Hits:
    """Whether the likeliest class is the true one, [K]."""
    right: Hits = probabilities.argmax(axis=1) == labels
    return right


def wilson(num_hits: int, num_rows: int) -> Interval:
    """A share and its 95 % score interval, which stays in [0, 1] and has a width at 0 and 1 too.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    share, squared = num_hits / num_rows, TWO_SIDED_95_PERCENT**2
    middle = (share + squared / (2 * num_rows)) / (1 + squared / num_rows)
    spread = math.sqrt(share * (1 - share) / num_rows + squared / (4 * num_rows**2))
    reach = TWO_SIDED_95_PERCENT * spread / (1 + squared / num_rows)
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def compare(first: Hits, second: Hits) -> PairedDifference:
    """The accuracy of one trial less that of another, on the same rows.

    The interval is Wald's with half a row added to each of the four counts ("Wald+2"): Agresti and Min, "Simple
    Improved Confidence Intervals for Comparing Matched Proportions", Statistics in Medicine 24, 2005; in R:
    http://users.stat.ufl.edu/~aa/cda/R/matched/R2_matched/index.html.

    Args:
        first: Whether a trial predicts each row rightly, [K], K >= 1.
        second: The same of the other.
    """
    num_rows = len(first)
    ahead, behind = int((first & ~second).sum()), int((second & ~first).sum())
    middle = (ahead - behind) / (num_rows + 2)
    variance = ((ahead + behind + 1) / (num_rows + 2) - middle**2) / (num_rows + 2)
    reach = TWO_SIDED_95_PERCENT * math.sqrt(variance)
    interval = Interval((ahead - behind) / num_rows, max(-1.0, middle - reach), min(1.0, middle + reach))
    p_value = float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0
    return PairedDifference(interval, ahead, behind, p_value)
