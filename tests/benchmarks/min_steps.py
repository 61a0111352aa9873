"""What `search.min_steps` is worth to a head on frozen features of a small source: emoji of one vendor to another's.

    python tests/benchmarks/min_steps.py [--data FOLDER] [--seeds 0 1] [--methods im bnm] [--rates 1e-3]
        [--min-steps 1200]

Twelve epochs in batches of 64, one pass each (about 130 steps) beside 1,200 steps in all, at several learning rates.
Accuracy is of held-out emoji of the target, whose labels no trial sees.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from emoji import prepare

from ray_tl.config import TrialConfig
from ray_tl.data.load import load_data
from ray_tl.data.places import Places
from ray_tl.search_space import DataOptions
from ray_tl.selection import ByAgreement, SelectionContext
from ray_tl.training.data import TrialData
from ray_tl.training.run import TrialRun

METHODS = {"im": "linear", "bnm": "linear", "mcc": "linear", "mmd": "constant", "source_only": "constant"}
RATES = (1e-4, 3e-4, 1e-3)


def config_of(method: str, rate: float, min_steps: int | None, seed: int) -> TrialConfig:
    fields = {
        "backbone": "efficientnet_lite0",
        "freeze_depth": "head_only",
        "adaptor": "bottleneck",
        "label_smoothing": 0.1,
        "method": method,
        "loss_weighting": METHODS[method],
        "optimizer": {"adamw": {"lr": rate}},
        "epochs": 12,
        "min_steps": min_steps,
        "seed": seed,
    }
    return TrialConfig.model_validate(fields)


def accuracy(config: TrialConfig, data: TrialData, truth: np.ndarray) -> float:
    rule = ByAgreement(SelectionContext(data.pair.source.classes, (), num_target=len(data.recorded["target"])))
    run = TrialRun(config, data, rule)
    for epoch in range(config.epochs):
        run.epoch(epoch)
    return float((run.evidence["target_test"].argmax(axis=1) == truth).mean())


def measure(
    folder: Path, seeds: Sequence[int], methods: Sequence[str], rates: Sequence[float], more_steps: int
) -> None:
    source, target = prepare(folder, "google"), prepare(folder, "twitter")
    places = Places(str(source / "train"), str(target / "train"), str(target / "test"), None, (), None)
    pair = load_data(places, DataOptions(on_overlap="skip"), 0).pair
    assert pair.target_test is not None
    truth = np.array([pair.source.classes.index(Path(name).parts[0]) for name in pair.target_test.ids])
    data = TrialData(pair.for_trials(), torch.device("cpu"))
    for method in methods:
        for rate in rates:
            for min_steps in (None, more_steps):
                start = time.perf_counter()
                found = [accuracy(config_of(method, rate, min_steps, seed), data, truth) for seed in seeds]
                each = (time.perf_counter() - start) / len(seeds)
                print(
                    f"{method:<12} lr {rate:g}  min_steps {min_steps}  {np.mean(found):.1%}  {each:.0f} s", flush=True
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("emoji"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--min-steps", type=int, default=1200, help="what is compared with one pass an epoch")
    given = parser.parse_args()
    measure(given.data, given.seeds, given.methods, given.rates, given.min_steps)


if __name__ == "__main__":
    main()
