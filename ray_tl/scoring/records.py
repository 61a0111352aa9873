"""The ledger: how good the choices of past searches turned out to be, a small file in the folder of each study."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from ray_tl.errors import BrokenStudy
from ray_tl.study.backend import Backend
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import Studies

FILE = "evaluation.json"
PREFERRED = ("target_test", "target")
MUCH_WORSE_POINTS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """The accuracy on the target that a search expected of its champion, without labels.

    Attributes:
        accuracy: In [0, 1].
        low: The end of its interval, as `high`.
    """

    accuracy: float
    low: float
    high: float

    @classmethod
    def of(cls, content: Mapping[str, object]) -> "Expected":
        """From `champion.json`; raises `KeyError`, `TypeError` or `ValueError` for what is not one."""
        return cls(*(float(str(content[name])) for name in ("accuracy", "low", "high")))

    def holds(self, accuracy: float) -> bool:
        """Whether an accuracy is inside the interval."""
        return self.low <= accuracy <= self.high

    def summary(self, observed: float) -> dict[str, object]:
        """Plain values for `--json`."""
        return {**asdict(self), "is_inside": self.holds(observed)}


@dataclass(frozen=True)
class LedgerRow:
    """How good the choice of one search was.

    Attributes:
        trials: Of the study, in any state.
        domain: `target` or `target_test`, on which it was scored.
        labels: Where the true classes are from.
        source_only: Accuracies, in [0, 1], as `champion` and `best`, which is that of the best at full fidelity.
        method: Of the champion.
        regret_points: By how many points of accuracy the champion is worse than the best.
        rank: Of the champion among `num_ranked` trials at full fidelity.
        evaluated_at: ISO 8601.
    """

    study: str
    source: str
    target: str
    trials: int
    domain: str
    labels: str
    num_labels: int
    source_only: float | None
    champion: float
    champion_trial: int
    method: str
    best: float | None
    regret_points: float | None
    rank: int | None
    num_ranked: int
    expected: Expected | None
    evaluated_at: str

    @property
    def gain_points(self) -> float | None:
        """By how many points the champion is better than source-only."""
        return None if self.source_only is None else 100 * (self.champion - self.source_only)

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        expected = None if self.expected is None else self.expected.summary(self.champion)
        return {**asdict(self), "gain_points": self.gain_points, "expected": expected}


@dataclass(frozen=True)
class Totals:
    """All rows of a ledger together; `None` where no row says it.

    Attributes:
        mean_regret_points: Of the rows that have a regret.
        worst_regret_points: Of them.
        share_worse: Of champions that are more than `MUCH_WORSE_POINTS` worse than source-only.
        share_inside: Of accuracies that are in the interval that was expected.
    """

    studies: int
    mean_regret_points: float | None
    worst_regret_points: float | None
    share_worse: float | None
    share_inside: float | None

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return asdict(self)


def record(store: StudyStore, row: LedgerRow) -> None:
    """Put a row into the ledger, instead of an earlier one of the same study and domain."""
    kept: dict[str, LedgerRow] = {}
    with suppress(BrokenStudy):  # it is replaced
        kept = _read(store.backend, store.spec.name)
    rows = {**kept, row.domain: row}
    store.write_json(FILE, {domain: asdict(each) for domain, each in rows.items()})


def read_ledger(studies: Studies) -> list[LedgerRow]:
    """One row a study, the newest study first: of `target_test` where that was scored, else of `target`.

    A record that can't be read is logged and left out.
    """
    rows = []
    for name in studies.names():
        try:
            found = _read(studies.backend(name), name)
        except (ValueError, OSError) as error:
            _log.warning("%s", error)
            continue
        rows += [found[domain] for domain in PREFERRED if domain in found][:1]
    return rows


def totals(rows: Sequence[LedgerRow]) -> Totals:
    """What rows say together."""
    regrets = [row.regret_points for row in rows if row.regret_points is not None]
    gains = [gain for row in rows if (gain := row.gain_points) is not None]
    inside = [row.expected.holds(row.champion) for row in rows if row.expected is not None]
    return Totals(
        studies=len(rows),
        mean_regret_points=sum(regrets) / len(regrets) if regrets else None,
        worst_regret_points=max(regrets, default=None),
        share_worse=sum(gain < -MUCH_WORSE_POINTS for gain in gains) / len(gains) if gains else None,
        share_inside=sum(inside) / len(inside) if inside else None,
    )


_ROWS = TypeAdapter(dict[str, LedgerRow])


def _read(backend: Backend, study: str) -> dict[str, LedgerRow]:
    """Rows by domain, none of a study that was not scored; raises `BrokenStudy` if they are not what was written."""
    content = backend.read_file(FILE)
    try:
        return {} if content is None else _ROWS.validate_python(json.loads(content))
    except (ValueError, ValidationError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        remedy = f"remove it, and score again: ray-tl evaluate {study} --labels ..."
        raise BrokenStudy(f"{backend.place_of(FILE)} is not what was written ({reason}); {remedy}") from error
