"""Is the champion better when it is trained again on all of the source? On the pools of `selection_pools.py`.

    python tests/benchmarks/refit.py FOLDER [--pairs 'google>twitter' ...] [--balances same half] [--data FOLDER]
        [--out FOLDER] [--seeds 3]

FOLDER holds the pools and their evidence (run `selection.py` first); nothing is written there. Of each pool the default
rule's champion is trained again with k seeds on source and hold-out together. Accuracy on the target, whose true
classes are read here alone, to score: of the champion as it was, the mean over the seeds, the seed nearest to their
mean prediction, one more network that learned that mean (`distilled`), their soup (which begin with equal weights: k
more networks), their ensemble; and what the rule said of each. `kept` is the accuracy of what a search would have ended
with.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from selection import RULE, Pool, load_pool, trials_of
from selection_pools import BALANCES, PAIRS, load_domains

from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.selection import TrialEvidence
from ray_tl.selection.refit import nearest_to_mean, refit_configs
from ray_tl.study.records import EpochRecord, TrialRecord, TrialState
from ray_tl.training.data import TrialData
from ray_tl.training.distillation import distil_trials
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from ray_tl.training.refit import combine_trials

FIRST = 1000  # number of the first refit


@dataclass(frozen=True)
class Row:
    """What became of one pool: accuracies on the target, in points, and what the rule would not have kept."""

    pool: str
    method: str
    points: Mapping[str, float]
    worse: Sequence[str]
    seconds: float


def refit(pool: Pool, data: TrialData, num_seeds: int, folder: Path) -> Row:
    """Train the champion of a pool again, in both ways to begin, and score what comes of it."""
    started = time.monotonic()
    rule, trials, outputs = trials_of(pool, RULE, {})
    choice = rule.choose(trials, outputs.__getitem__)
    assert choice is not None
    champion = choice.champion
    truth = np.load(pool.folder / "truth.npy")
    points = {"before": _accuracy(outputs[champion.number].target, truth)}
    networks = {}
    for combine in ("ensemble", "soup"):
        configs = refit_configs(champion.config, num_seeds, combine)
        first = FIRST + 100 * len(networks)
        seeds = [_trained(each, data, folder, first + place, rule) for place, each in enumerate(configs)]
        target = {files.number: files.load_evidence()["target"] for files in seeds}
        if combine == "ensemble":
            points["seeds"] = float(np.mean([_accuracy(each, truth) for each in target.values()]))
            networks["nearest"] = next(files for files in seeds if files.number == nearest_to_mean(target))
            networks["distilled"] = networks["nearest"]
            if not is_closed_form(champion.config.method.name):
                networks["distilled"] = TrialFiles(folder, first + 60)
                distil_trials(seeds, champion.config, data, lambda report: False, networks["distilled"], rule)
        together = TrialFiles(folder, first + 50)
        try:
            if not together.checkpoint.is_file():
                combine_trials(combine, seeds, champion.config, data, together, rule)
            networks[combine] = together
        except InvalidInput:
            networks[combine] = networks["nearest"]
    worse = []
    for name, files in networks.items():
        points[name] = _accuracy(files.load_evidence()["target"], truth)
        new = _record(files, champion, rule, pool)
        known = {**outputs, new.number: _evidence(files)}
        if rule.compare(trials, known.__getitem__, champion, new).is_worse:
            worse.append(name)
    points["kept"] = points["before" if "nearest" in worse else "nearest"]
    return Row(f"{pool.name} {pool.balance}", str(champion.config.method), points, worse, time.monotonic() - started)


def _trained(config: TrialConfig, data: TrialData, folder: Path, number: int, rule: object) -> TrialFiles:
    files = TrialFiles(folder, number)
    train_trial(config, data, lambda report: False, files, rule)  # goes on from a checkpoint, if there is one
    return files


def _evidence(files: TrialFiles) -> TrialEvidence:
    evidence = files.load_evidence()
    return TrialEvidence(evidence["source_holdout"], evidence["target"], files.load_final_evidence())


def _record(files: TrialFiles, old: TrialRecord, rule: object, pool: Pool) -> TrialRecord:
    """As a search would have remembered it: what is measured on the hold-out is that of its trial."""
    target = files.load_final_evidence().target(files.load_evidence()["target"], pool.reference)
    holdout = pool.members[old.number]
    scores = rule.observe(holdout.final.source(holdout.holdout), target)
    histogram = target.histogram().tolist()
    record: EpochRecord = old.last.model_copy(
        update={"scores": scores, "histogram": histogram, "objective": rule.objective(scores, histogram)}
    )
    return TrialRecord(files.number, TrialState.COMPLETE, old.config, [record], refit_of=old.number)


def _accuracy(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    return 100 * float((probabilities.argmax(axis=1) == truth).mean())


def rows(options: argparse.Namespace, out: Path) -> list[Row]:
    found = []
    for name in options.pairs:
        present = [each for each in options.balances if (options.folder / f"{name}-{each}" / "pool.json").is_file()]
        whole = load_domains(name, options.data or options.folder / "data") if present else None
        for balance in present:
            pool = load_pool(name, balance, options.folder)
            if not pool.members:
                continue
            data = TrialData(whole.balanced(balance).pair.with_whole_source(), torch.device("cpu"))
            row = refit(pool, data, options.seeds, out / f"{name}-{balance}")
            found.append(row)
            figures = "".join(f"{each}: {value:5.1f}  " for each, value in row.points.items())
            print(f"{row.pool:26} {row.method:24} {figures}worse: {row.worse}  {row.seconds:.0f} s", flush=True)
    return found


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="refit-") as name:
        found = rows(options, options.out or Path(name))
    if not found:
        sys.exit(f"{options.folder} has no pool of these pairs: run selection_pools.py there, and then selection.py.")
    means = {name: float(np.mean([row.points[name] for row in found])) for name in found[0].points}
    if options.json:
        print(json.dumps({"means": means, "pools": [vars(row) for row in found]}))
        return
    print()
    for name, value in means.items():
        losses = np.array([row.points[name] - row.points["before"] for row in found])
        print(f"{name:10}{value:6.1f}  change {losses.mean():+.1f}, from {losses.min():+.1f} to {losses.max():+.1f}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the pools")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--balances", nargs="+", choices=BALANCES, default=BALANCES)
    parser.add_argument("--data", type=Path, help="where the emoji are")
    parser.add_argument("--out", type=Path, help="where the refits are kept; by default nowhere")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
