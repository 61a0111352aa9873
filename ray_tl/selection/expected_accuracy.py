"""How accurate is the champion on the target? Before any label of it is seen, and as sure as past pools allow.

Confidence can't say it: what adapts to the target is trained to be sure there. Two agreements can, which fail in
different ways and which the rule of choice looks at too: with the ensemble of the other trials, and between neighbours
in the features of source-only, which nothing of the target has shaped. What agrees is wrong as well, in the pools that
were looked at about as often as the champion is on the source: the estimate is its accuracy there times the mean of
both. The interval is as wide as the errors on pools of trained candidates whose true classes are known:
`tests/benchmarks/expected_accuracy.py`, which compares other estimators.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import Unavailable
from ray_tl.selection.agreement import ensembles_of_others
from ray_tl.selection.choice import TrialEvidence
from ray_tl.selection.reference_space import reference_spaces

LEAST_TRIALS = 5
LEAST_FAMILIES = 2
LEVEL = 0.9
Z = 1.645  # of `LEVEL`, two-sided, by the normal distribution
ERROR = 0.31  # 90 % of errors are no larger, over sqrt(a (1 - a)): tests/benchmarks/expected_accuracy.py
KNOWN = (0.1, 0.9)  # estimates beyond which nothing was measured: their intervals are no narrower


@dataclass(frozen=True)
class ExpectedAccuracy:
    """What the pool of a study lets expect of one of its trials on the target.

    Attributes:
        accuracy: In [0, 1].
        low: The end of its interval, as `high`.
        level: Of the interval.
        source_accuracy: Of the trial, on held-out source examples.
        ensemble: Share of target examples on which the ensemble of the other trials agrees with it.
        neighbours: Share of neighbours that get one class, as if its classes were equally frequent.
    """

    accuracy: float
    low: float
    high: float
    level: float
    source_accuracy: float
    ensemble: float
    neighbours: float

    def summary(self) -> dict[str, object]:
        """Plain values, as `champion.json` keeps them."""
        return {**asdict(self), "words": self.in_words()}

    def in_words(self) -> str:
        """One line for users."""
        interval = f"{self.level:.0%} interval {self.low:.0%} to {self.high:.0%}"
        return (
            f"expected accuracy on the target: {self.accuracy:.0%} ({interval}), from agreement between trials and "
            "between neighbours; no label of the target was read."
        )


def expected_accuracy(
    champion: int,
    outputs: Mapping[int, TrialEvidence],
    families: Mapping[int, str],
    baseline: int | None,
    num_classes: int,
) -> ExpectedAccuracy:
    """The accuracy on the target that is expected of a trial.

    Args:
        champion: Number of the trial.
        outputs: By number, of the trials that no guard rejects.
        families: By number: trials of a family err alike.
        baseline: Number of source-only.
        num_classes: C.

    Raises:
        Unavailable: With the reason, where the pool says too little.
    """
    _require_enough(champion, outputs, families)
    left = {number: each.final for number, each in outputs.items() if each.final is not None}
    if champion not in left:
        raise Unavailable("the champion left no final evidence.")
    spaces = reference_spaces(left, baseline, num_classes)
    if not spaces or not spaces[0].is_fixed:
        raise Unavailable("source-only left no features in which neighbours can be trusted.")
    trial = outputs[champion]
    assert trial.final is not None
    right = float((trial.source_holdout.argmax(axis=1) == trial.final.holdout_labels).mean())
    ensemble = _with_ensemble(champion, {number: each.target for number, each in outputs.items()}, families)
    kappa = spaces[0].neighbours.agreement(trial.target.argmax(axis=1), num_classes)
    neighbours = max(0.0, 1 / num_classes + (1 - 1 / num_classes) * kappa)
    return combined(right, ensemble, neighbours, len(trial.target))


def combined(source_accuracy: float, ensemble: float, neighbours: float, num_rows: int) -> ExpectedAccuracy:
    """The estimate with its interval; see `ExpectedAccuracy`.

    Args:
        source_accuracy: In [0, 1], as both agreements.
        ensemble: Agreement with the other trials.
        neighbours: Agreement between neighbours.
        num_rows: M, recorded rows of the target; their noise widens the interval.
    """
    accuracy = source_accuracy * (ensemble + neighbours) / 2
    known = min(max(accuracy, KNOWN[0]), KNOWN[1])
    reach = math.sqrt(known * (1 - known)) * math.hypot(ERROR, Z / math.sqrt(num_rows))
    low, high = max(0.0, accuracy - reach), min(1.0, accuracy + reach)
    return ExpectedAccuracy(accuracy, low, high, LEVEL, source_accuracy, ensemble, neighbours)


def _with_ensemble(champion: int, target: Mapping[int, NDArray[np.floating]], families: Mapping[int, str]) -> float:
    others = ensembles_of_others(target, families)[list(target).index(champion)]
    return float((target[champion].argmax(axis=1) == others).mean())


def _require_enough(champion: int, outputs: Mapping[int, TrialEvidence], families: Mapping[int, str]) -> None:
    if champion not in outputs:
        raise Unavailable("the guards reject the champion itself.")
    if len(outputs) < LEAST_TRIALS:
        is_one = len(outputs) == 1
        passing = f"{len(outputs)} trial{'' if is_one else 's'} at full fidelity {'passes' if is_one else 'pass'}"
        raise Unavailable(f"{passing} the guards, and it takes {LEAST_TRIALS}.")
    num_families = len({families[number] for number in outputs})
    if num_families < LEAST_FAMILIES:
        raise Unavailable("all trials are of one family of methods, and err alike.")
