"""What do a few labels of the target add to a choice without labels? On every pool of `selection_pools.py`.

    python tests/benchmarks/few_labels.py FOLDER [--pairs 'google>emojione' ...] [--draws 10] [--json]

FOLDER holds pools with their evidence (see `selection.py`), and is only read. k labelled target examples of each class
are drawn at random, of a class with fewer than 2 k half of it; what is chosen is scored on all others. `rule alone` is
the rule of choice without labels, `labels alone` the trial of the highest accuracy on the drawn ones among those that
no guard rejects, the mean of those that tie, and `both` what `ray_tl.selection.few_labels` makes of the two. Regret is
what the chosen candidate is worse than the best of its pool, in points of accuracy.
"""

import argparse
import json
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from selection import RULE, Pool, chosen_by_rule, complete_pools
from selection_pools import PAIRS

from ray_tl.selection import Choice, LabelledPredictions
from ray_tl.selection.few_labels import with_labels

SHOTS = (1, 3, 5, 10)
WAYS = ("rule alone", "labels alone", "both")
Rows = NDArray[np.int64]
Regrets = dict[tuple[str, int], list[float]]
"""In points, by way to choose and k, one for each pool and draw."""


def drawn(truth: Rows, shots: int, random: np.random.Generator) -> Rows:
    """`shots` rows of each class that occurs, at most half of it and at least one."""
    by_class = [random.permutation(np.flatnonzero(truth == label)) for label in np.unique(truth)]
    return np.sort(np.concatenate([rows[: max(1, min(shots, len(rows) // 2))] for rows in by_class]))


def picks(pool: Pool, choice: Choice, rows: Rows, labels: Rows) -> dict[str, list[int]]:
    """Numbers of the candidates that each way takes, several where they tie.

    Args:
        pool: Candidates.
        choice: Of the rule.
        rows: Of the target, whose labels are known, [N].
        labels: Their classes, [N].
    """
    few = {number: LabelledPredictions(pool.members[number].target[rows], labels) for number in choice.merits}
    right = {number: int(each.hits.sum()) for number, each in few.items()}
    best = [number for number, count in right.items() if count == max(right.values())]
    found = (choice.champion.number, best, with_labels(choice, few).champion.number)
    return {way: taken if isinstance(taken, list) else [taken] for way, taken in zip(WAYS, found, strict=True)}


def measure(pool: Pool, truth: Rows, num_draws: int) -> Regrets:
    choice, found = chosen_by_rule(pool, RULE, {}), defaultdict(list)
    hits = np.stack([member.target.argmax(axis=1) == truth for member in pool.members])
    for shots in SHOTS:
        random = np.random.default_rng(shots)
        for _ in range(num_draws):
            rows = drawn(truth, shots, random)
            accuracies = np.delete(hits, rows, axis=1).mean(axis=1)
            for way, taken in picks(pool, choice, rows, truth[rows]).items():
                found[way, shots].append(100 * float(accuracies.max() - accuracies[taken].mean()))
    return found


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    together: Regrets = defaultdict(list)
    each = []
    for pool in complete_pools(options.pairs, options.folder):
        found = measure(pool, np.load(pool.folder / "truth.npy"), options.draws)
        each.append(
            {"pool": f"{pool.name} {pool.balance}"} | {f"{way} {k}": np.mean(v) for (way, k), v in found.items()}
        )
        for key, values in found.items():
            together[key] += values
    rows = {way: {k: (np.mean(together[way, k]), max(together[way, k])) for k in SHOTS} for way in WAYS}
    if options.json:
        print(json.dumps({"summary": rows, "pools": each}))
        return
    print(f"{len(each)} pools, {options.draws} draws of each: regret in points, mean and worst")
    print(f"{'':14}" + "".join(f"{f'k = {k}':>15}" for k in SHOTS))
    for way, cells in rows.items():
        print(f"{way:14}" + "".join(f"{mean:8.2f}{worst:7.1f}" for mean, worst in cells.values()))
    print()
    for row in each:
        shown = "; ".join(f"k = {k}: " + ", ".join(f"{row[f'{way} {k}']:.1f}" for way in WAYS) for k in SHOTS)
        print(f"{row['pool']}: {shown}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the pools")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--draws", type=int, default=10, help="of labelled examples, for each pool and k")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
