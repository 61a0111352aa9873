"""How well is the champion's accuracy on the target expected? On every pool of `selection_pools.py`, label-free.

    python tests/benchmarks/expected_accuracy.py FOLDER [--pairs 'google>twitter' ...] [--json]

The pools must have their evidence: `selection.py` writes it. Of every pool the rule of choice takes a champion, of the
whole pool and of random parts of it as large as small studies, and every estimator says how accurate it is. The true
classes of the targets are read to score them alone. Each pair is left out in turn: an interval is as wide as holds 90 %
of the errors on the other pairs, and `held` is how often it holds the truth of the pair that was left out. Errors are
taken over sqrt(a (1 - a)), the deviation of a share a.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from selection import RULE, Member, Pool, chosen_by_rule, complete_pools
from selection_pools import BALANCES, PAIRS

from ray_tl.errors import Unavailable
from ray_tl.selection import TrialEvidence
from ray_tl.selection.expected_accuracy import KNOWN, LEVEL, ExpectedAccuracy, expected_accuracy
from ray_tl.selection.families import family_of
from ray_tl.selection.reference_space import trust
from ray_tl.validation import thresholds

PART, DRAWS, SEED = 12, 5, 0
USED = "expected_accuracy (ours)"


@dataclass(frozen=True)
class Case:
    """A champion in its pool.

    Attributes:
        pool: Those that no guard rejects.
        champion: One of them.
        expected: Of it.
        is_whole: Whether the pool is not a part of one.
    """

    pool: Pool
    champion: Member
    expected: ExpectedAccuracy
    is_whole: bool

    @property
    def own(self) -> NDArray[np.int64]:
        return self.champion.target.argmax(axis=1)

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.champion.final.holdout_labels

    @property
    def right(self) -> float:
        """Accuracy of the champion on held-out source examples."""
        return float((self.champion.holdout.argmax(axis=1) == self.labels).mean())

    @property
    def num_classes(self) -> int:
        return self.champion.target.shape[1]


Estimators = dict[str, Callable[[Case], float]]


def atc(case: Case) -> float:
    return thresholds.expected_accuracy(case.champion.holdout, case.right, case.champion.target)


def atc_entropy(case: Case) -> float:
    return thresholds.expected_accuracy_by_entropy(case.champion.holdout, case.right, case.champion.target)


def difference_of_confidences(case: Case) -> float:
    """Guillory et al., "Predicting with Confidence on Unseen Distributions", 2021, https://arxiv.org/abs/2107.03315."""
    lost = case.champion.holdout.max(axis=1).mean() - case.champion.target.max(axis=1).mean()
    return case.right - float(lost)


def mean_confidence(case: Case) -> float:
    """After temperature scaling on the hold-out."""
    logits = np.log(np.maximum(case.champion.holdout, 1e-12))

    def loss(log_temperature: float) -> float:
        of_truth = log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(logits)), case.labels]
        return -float(of_truth.mean())

    temperature = np.exp(minimize_scalar(loss, bounds=(-3, 4), method="bounded").x)
    return float(softmax(np.log(np.maximum(case.champion.target, 1e-12)) / temperature, axis=1).max(axis=1).mean())


def agreement(case: Case) -> float:
    """Jiang et al., "Assessing Generalization of SGD via Disagreement", 2022, https://arxiv.org/abs/2106.13799.

    With each trial of another family, families counting alike.
    """
    family = family_of(case.champion.config)
    found: dict[str, list[float]] = {}
    for member in case.pool.members:
        if (other := family_of(member.config)) != family:
            found.setdefault(other, []).append(float((member.target.argmax(axis=1) == case.own).mean()))
    return float(np.mean([np.mean(each) for each in found.values()])) if found else float("nan")


def on_the_line(case: Case) -> float:
    """ALine-D of Baek et al., "Agreement-on-the-Line", 2022, https://arxiv.org/abs/2206.13089; however good the line.

    The mean probit of two accuracies on the target is that of their agreement there plus the slope of the line times
    what their mean probit on the source is above that of their agreement: solved for all pairs by least squares.
    """
    held_out, target = (
        np.stack([getattr(each, name).argmax(axis=1) for each in case.pool.members]) for name in ("holdout", "target")
    )
    first, second = np.triu_indices(len(target), k=1)
    here, there = (_probit((each[first] == each[second]).mean(axis=1)) for each in (held_out, target))
    pairs = np.zeros((len(first), len(target)))
    pairs[np.arange(len(first)), first] = pairs[np.arange(len(first)), second] = 0.5
    above = pairs @ _probit((held_out == case.labels).mean(axis=1)) - here
    solved = np.linalg.lstsq(pairs, there + np.polyfit(here, there, 1)[0] * above, rcond=None)[0]
    place = [each.number for each in case.pool.members].index(case.champion.number)
    return float(norm.cdf(solved[place]))


def _probit(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return norm.ppf(np.clip(shares, 0.01, 0.99))


def nearest_labels(case: Case) -> float:
    """Share of the nearest labelled source examples, in a space that nobody trained, that have the predicted class."""
    reference = case.pool.reference
    assert reference.votes is not None
    return float(np.take_along_axis(reference.votes, case.own[reference.neighbours.rows][:, None], axis=1).mean())


def trusted_neighbours(case: Case) -> float:
    """Agreement between neighbours beyond chance, over that of the source's own labels, in the space of source-only."""
    return min(1.0, case.expected.neighbours / max(trust(case.pool.members[0].final, case.num_classes), 1e-6))


def source_accuracy(case: Case) -> float:
    return case.right


ESTIMATORS: Estimators = {
    "source accuracy": source_accuracy,
    "ATC": atc,
    "ATC by entropy": atc_entropy,
    "difference of confidences": difference_of_confidences,
    "confidence, by temperature": mean_confidence,
    "agreement (GDE)": agreement,
    "nearest labels": nearest_labels,
    "neighbours over trust": trusted_neighbours,
    "agreement on the line": on_the_line,
    "ensemble of the others": lambda case: case.expected.ensemble,
    "neighbours": lambda case: case.expected.neighbours,
    "source times ensemble": lambda case: case.right * case.expected.ensemble,
    "source times neighbours": lambda case: case.right * case.expected.neighbours,
    USED: lambda case: case.expected.accuracy,
}


def cases_of(pool: Pool) -> Iterator[Case]:
    """The whole pool, and parts of it that hold source-only; those of which nothing is expected are told."""
    yield from _case(pool, is_whole=True)
    random = np.random.default_rng(SEED)
    for _ in range(DRAWS):
        others = np.sort(random.permutation(np.arange(1, len(pool.members)))[: PART - 1])
        yield from _case(replace(pool, members=tuple(pool.members[place] for place in (0, *others))), is_whole=False)


def _case(pool: Pool, is_whole: bool) -> Iterator[Case]:
    choice = chosen_by_rule(pool, RULE, {})
    sound = {item.trial.number for item in choice.candidates if item.rejected is None}
    left = tuple(member for member in pool.members if member.number in sound)
    champion = next(member for member in left if member.number == choice.champion.number)
    outputs = {each.number: TrialEvidence(each.holdout, each.target, each.final) for each in left}
    families = {each.number: family_of(each.config) for each in left}
    try:
        found = expected_accuracy(champion.number, outputs, families, 0, champion.target.shape[1])
    except Unavailable as error:
        print(f"{pool.name} {pool.balance}, {len(left)} trials: nothing is expected: {error}", file=sys.stderr)
        return
    yield Case(replace(pool, members=left), champion, found, is_whole)


def held_out(sizes: NDArray[np.float64], pairs: NDArray[np.str_]) -> NDArray[np.float64]:
    """Size that `LEVEL` of the errors on all other pairs don't exceed, for each case; not a number without others."""
    found = np.full(len(sizes), np.nan)
    for pair in np.unique(pairs):
        if len(rest := sizes[pairs != pair]):
            found[pairs == pair] = quantile(rest)
    return found


def scale(estimates: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.clip(estimates, *KNOWN)
    return np.sqrt(known * (1 - known))


def quantile(sizes: NDArray[np.float64]) -> float:
    """Of which `LEVEL` of further errors are no larger, by split conformal prediction."""
    return float(np.quantile(sizes, min(1.0, LEVEL * (1 + 1 / len(sizes))), method="higher"))


def row_of(errors: NDArray[np.float64], widths: NDArray[np.float64], which: NDArray[np.bool_]) -> dict[str, float]:
    """What one estimator is worth on some of the cases."""
    some = which & np.isfinite(errors)
    return {
        "error": float(np.abs(errors[some]).mean()),
        "bias": float(errors[some].mean()),
        "held": float((np.abs(errors[some]) <= widths[some]).mean()),
        "width": float(2 * widths[some].mean()),
    }


def summary(cases: Sequence[Case]) -> dict[str, dict[str, dict[str, float]]]:
    """By estimator and group of cases."""
    truth = np.array([case.champion.accuracy for case in cases])
    pairs, balances = np.array([case.pool.name for case in cases]), np.array([case.pool.balance for case in cases])
    whole = np.array([case.is_whole for case in cases])
    groups = {"whole": whole, f"of {PART}": ~whole, **{name: whole & (balances == name) for name in BALANCES}}
    found = {}
    for name, estimate in ESTIMATORS.items():
        estimates = np.array([estimate(case) for case in cases])
        errors, unit = estimates - truth, scale(estimates)
        widths = held_out(np.abs(errors) / unit, pairs) * unit
        found[name] = {group: row_of(errors, widths, which) for group, which in groups.items() if which.any()}
    return found


def main() -> None:
    options = _parse()
    warnings.filterwarnings("ignore")
    pools = complete_pools(options.pairs, options.folder)
    cases = [case for pool in pools for case in cases_of(pool)]
    if not cases:
        sys.exit(f"Of no pool in {options.folder} is anything expected; the reasons are above.")
    rows = summary(cases)
    estimates = np.array([case.expected.accuracy for case in cases])
    sizes = np.abs(estimates - [case.champion.accuracy for case in cases]) / scale(estimates)
    each = [_line(case) for case in cases if case.is_whole]
    if options.json:
        print(json.dumps({"summary": rows, "error": quantile(sizes), "pools": each}))
        return
    for group in rows[USED]:
        print(f"{group:30}{'error':>8}{'bias':>8}{'held':>7}{'width':>8}   points; pairs left out in turn")
        for name, of in rows.items():
            row = of[group]
            print(f"{name:30}{row['error']:8.1%}{row['bias']:+8.1%}{row['held']:7.0%}{row['width']:8.1%}")
        print()
    print(f"ERROR, at least {LEVEL:.0%} of {len(sizes)} errors over sqrt(a (1 - a)): {quantile(sizes):.3f}\n")
    for row in each:
        expected = f"expected {row['expected']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
        print(f"{row['pool']}: {expected}, true {row['true']:.1%}")


def _line(case: Case) -> dict[str, object]:
    name, found = f"{case.pool.name} {case.pool.balance}", case.expected
    shown = {"expected": found.accuracy, "low": found.low, "high": found.high}
    return {"pool": name, **shown, "true": case.champion.accuracy}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the pools")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
