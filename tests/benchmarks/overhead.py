"""What a trial costs beside its training: warm slots against one Ray Train run a trial.

    python tests/benchmarks/overhead.py [--trials 12] [--concurrency 2] [--json]

The same fixed configurations, so small that little work remains, run in one Ray session

A. through `ray_tl`: `run_search` over warm slots, without pruning; the confirmation of the champion included;
B. through the textbook pattern: a Ray Tune function that fits one `TorchTrainer` a trial, with `TuneReportCallback`.

Both train with `train_trial`, write the same files, and run as many trials at a time. B gains from the session's
settings too: Ray Train looks for finished workers every 0.5 s in it, by default every 2 s.

    overhead a trial = (wall time x trials at a time - sum of the epochs' seconds) / trials
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ray
import torch
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console
from rich.table import Table

from ray_tl.config import TrialConfig
from ray_tl.data.domains import DomainPair
from ray_tl.data.places import MNIST, OPTDIGITS
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import run_search
from ray_tl.on_ray.session import ray_session
from ray_tl.planning import Plan, plan_search
from ray_tl.search_space import DataOptions, SearchFile, SearchOptions
from ray_tl.selection import ByAgreement, SelectionContext
from ray_tl.study.records import DataSource, TrialRecord
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from ray_tl.training.report import EpochReport

ROWS, EPOCHS = 256, 2
METHODS = ("source_only", "coral", "mcc")
OPTIONS = DataOptions(image_size=16, channels=1)
SEARCH = SearchOptions(epochs=EPOCHS, refit=None)


@dataclass(frozen=True)
class Cost:
    """What one way of running the trials took.

    Attributes:
        wall_s: From the call to its end.
        training_s: Sum of the epochs' seconds over all trials.
        overhead_s: A trial's, by the formula of the module.
    """

    wall_s: float
    training_s: float
    overhead_s: float

    @classmethod
    def of(cls, wall_s: float, training_s: float, trials: int, concurrency: int) -> "Cost":
        return cls(wall_s, training_s, (wall_s * concurrency - training_s) / trials)


class ReadyAt:
    """When the first epoch began: before that, slots start."""

    def __init__(self) -> None:
        self.time: float | None = None

    def __call__(self, trial: TrialRecord) -> None:
        if self.time is None and trial.last is not None:
            self.time = time.monotonic() - trial.last.seconds


def main() -> None:
    options = _parse()
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder, cluster = Path(name), ClusterConfig(num_cpus=options.concurrency)
        configs = fixed_configurations(options.trials)
        plan = small_plan(configs, folder)
        with ray_session(cluster, dashboard=False):
            results = {
                **warm_slots(plan, cluster, options.concurrency),
                "textbook": textbook(configs, plan.pair, folder, options.concurrency),
            }
    report(results, options, load_before)


def fixed_configurations(trials: int) -> list[TrialConfig]:
    fields = {"backbone": "tiny_cnn", "epochs": EPOCHS, "batch_size": 64}
    return [
        TrialConfig.model_validate({**fields, "method": METHODS[number % len(METHODS)], "seed": number})
        for number in range(trials)
    ]


def small_plan(configs: list[TrialConfig], folder: Path) -> Plan:
    """A planned search of exactly these configurations on the first rows of the source, and the whole target: the
    neighbours by which trials are compared are of all its rows.
    """
    search = SEARCH.model_copy(update={"num_trials": len(configs)})
    file = SearchFile(data=OPTIONS, search=search, trial={"backbone": "tiny_cnn"})
    source = DataSource(source=MNIST, target=OPTDIGITS, options=OPTIONS)
    plan = plan_search(file, source, "overhead", folder, first=configs)
    rows = range(ROWS)
    pair = replace(
        plan.pair,
        source=plan.pair.source.take(rows),
        source_holdout=plan.pair.source_holdout.take(rows),
    )
    return replace(plan, pair=pair)


def warm_slots(plan: Plan, cluster: ClusterConfig, concurrency: int) -> dict[str, Cost]:
    """A: with the start of the slots, and from the moment when the first epoch began."""
    ready, started = ReadyAt(), time.monotonic()
    result = run_search(plan, cluster, watch=ready, pruning=False, dashboard=False)
    ended = time.monotonic()
    assert ready.time is not None
    trials = len(result.trials)
    training = sum(epoch.seconds for trial in result.trials for epoch in trial.epochs)
    return {
        "warm slots": Cost.of(ended - started, training, trials, concurrency),
        "warm slots, once started": Cost.of(ended - ready.time, training, trials, concurrency),
    }


def textbook(configs: list[TrialConfig], pair: DomainPair, folder: Path, concurrency: int) -> Cost:
    """B: every trial starts a Ray Train run of its own."""
    started = time.monotonic()
    storage = str(folder / "textbook")
    space = {
        "trial": tune.grid_search([(number, config.model_dump(mode="json")) for number, config in enumerate(configs)]),
        "pair": ray.put(pair),
        "storage": storage,
    }
    grid = tune.Tuner(
        tune.with_resources(fit_one, {"memory": 1e6}),  # no core: those are for the Train workers
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrency),
        run_config=tune.RunConfig(name="tune", storage_path=storage, verbose=0),
    ).fit()
    wall = time.monotonic() - started
    assert not grid.errors, grid.errors
    assert all(result.metrics["epoch"] == EPOCHS for result in grid)
    return Cost.of(wall, sum(result.metrics["training_s"] for result in grid), len(configs), concurrency)


def fit_one(config: dict) -> None:
    """A Tune trial: one Ray Train run."""
    TorchTrainer(
        train_one,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=f"train-{config['trial'][0]}", storage_path=config["storage"], callbacks=[TuneReportCallback()]
        ),
    ).fit()


def train_one(config: dict) -> None:
    """The train function of that run."""
    torch.set_num_threads(1)
    number, trial = config["trial"]
    seconds = 0.0

    def relay(epoch: EpochReport) -> bool:
        nonlocal seconds
        seconds += epoch.seconds
        ray.train.report({"epoch": epoch.epoch, "training_s": seconds, **epoch.scores})
        return False

    data = TrialData(ray.get(config["pair"]), torch.device("cpu"))
    files = TrialFiles(Path(config["storage"]), number)
    train_trial(TrialConfig.model_validate(trial), data, relay, files, rule_for(data))


def rule_for(data: TrialData) -> ByAgreement:
    """As a search chooses. Apart from `train_one`, where `.classes` would make cloudpickle send `torch.classes`."""
    num_target = len(data.recorded["target"])
    return ByAgreement(
        SelectionContext(data.pair.source.classes, (), num_target=num_target, validators=SEARCH.validators)
    )


def report(results: dict[str, Cost], options: argparse.Namespace, load: tuple[float, float, float]) -> None:
    ratios = {name: results["textbook"].overhead_s / cost.overhead_s for name, cost in results.items()}
    if options.json:
        costs = {name: {**asdict(cost), "textbook_over_this": ratios[name]} for name, cost in results.items()}
        machine = {"cores": os.cpu_count(), "load_before": load, "load_after": os.getloadavg()}
        print(json.dumps({"trials": options.trials, "concurrency": options.concurrency, **machine, "results": costs}))
        return
    title = f"{options.trials} trials of {EPOCHS} epochs, {options.concurrency} at a time"
    table = Table("", "wall s", "training s", "overhead s a trial", "textbook / this", title=title)
    for row in _rows(results, ratios):
        table.add_row(*row)
    Console().print(table)
    print(f"{os.cpu_count()} cores; load before {_text(load)}, after {_text(os.getloadavg())}")


def _rows(results: dict[str, Cost], ratios: dict[str, float]) -> Iterator[tuple[str, ...]]:
    for name, cost in results.items():
        yield name, f"{cost.wall_s:.1f}", f"{cost.training_s:.1f}", f"{cost.overhead_s:.2f}", f"{ratios[name]:.1f}"


def _text(load: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.1f}" for value in load)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--concurrency", type=int, default=2, help="trials at a time, a core each")
    parser.add_argument("--json", action="store_true", help="figures as one JSON line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
