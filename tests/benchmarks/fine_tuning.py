"""The champion of a search with everything searchable, beside fixed recipes of fine-tuning on the same network.

    python tests/benchmarks/fine_tuning.py [--tasks emoji reviews] [--trials 30] [--data FOLDER] [--home FOLDER]
                                           [--rows search head_only full fastai] [--seeds 0 1 2]
                                           [--space FILE] [--rates 1e-3 1e-2]

`emoji` is drawings of one vendor to those of another, `reviews` sentences about films to sentences about products. The
search runs from the command line alone and is promoted; recipes (`fine_tuning_rivals.py`) get the same epochs and batch
size, and the best of several learning rates by accuracy on held-out source examples. Nobody sees a target label until
all is over. With --home, a search that broke off goes on where it was, and one that ended is not
run again. fastai comes with `pip install -e '.[bench]'`;
recipes whose library is missing are left out, and named.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
from emoji import prepare
from emoji_search import run
from fine_tuning_rivals import RECIPES, best_rate

from ray_tl import api
from ray_tl.config import Component, TrialConfig
from ray_tl.data.images import list_images
from ray_tl.data.load import load_pair
from ray_tl.home import studies_folder
from ray_tl.search_space import load_search_file
from ray_tl.study.records import TrialRecord
from ray_tl.training.files import TrialFiles

SEARCH = "search"
SPACES = Path(__file__).parents[2] / "search_spaces"


@dataclass(frozen=True)
class Task:
    """Data on disk, a space, and the true classes of the held-out target in its order."""

    name: str
    space: Path
    source: Path
    target: Path
    target_test: Path
    truth: Sequence[str]


def emoji(data: Path) -> Task:
    source, target = prepare(data, "google"), prepare(data, "twitter")
    truth = [Path(name).parts[0] for name in list_images(target / "test")]
    return Task("emoji", SPACES / "fine_tuning.yaml", source / "train", target / "train", target / "test", truth)


def reviews(data: Path) -> Task:
    folder = data / "reviews"
    if not folder.is_dir():
        run("sample-data", "--kind", "sentiment", folder)
    with (folder / "target_test_labels.csv").open(newline="") as file:
        truth = [row["label"] for row in csv.DictReader(file)]
    tables = [folder / name for name in ("source.csv", "target.csv", "target_test.csv")]
    return Task("reviews", SPACES / "text_sentiment.yaml", *tables, truth)


TASKS = {"emoji": emoji, "reviews": reviews}


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="fine-tuning-") as name:
        data, home = options.data or Path(name) / "data", options.home or Path(name) / "home"
        for task in (TASKS[each](data) for each in options.tasks):
            task = replace(task, space=options.space or task.space)
            seeds = options.seeds if SEARCH in options.rows else []
            wanted = [name for name in RECIPES if name in options.rows]
            searches = (searched(task, options.trials, home, seed) for seed in seeds)
            for row in chain(*searches, recipes(task, wanted, options.rates)):
                print(json.dumps({"task": task.name, **row, "load_before": options.load}), flush=True)


def searched(task: Task, trials: int, home: Path, seed: int) -> Iterator[dict[str, object]]:
    """Accuracy of source-only, of the champion, and of the best trial at full fidelity, which nobody could know."""
    started, name = time.monotonic(), f"{task.name}-{seed}"
    tables = ["--source", task.source, "--target", task.target, "--target-test", task.target_test]
    tables += ["--on-overlap", "skip"]  # some flags are one drawing for two emoji
    if not (studies_folder(home) / name).is_dir():
        run("search", task.space, *tables, "--trials", trials, "--seed", seed, "--name", name, "--home", home)
    elif api.status(name, home).champion is None:
        run("search", "--resume", name, "--home", home)
    seconds, study = time.monotonic() - started, api.status(name, home)
    run("promote", name, "--home", home)
    classes, begun = study.spec.classes, [trial for trial in study.trials if trial.last is not None]
    found = {trial.number: _accuracy(task, classes, _evidence(study.folder, trial)) for trial in begun}
    champion = next(trial for trial in study.trials if trial.number == study.champion)
    complete = [found[trial.number] for trial in study.trials if trial.at_full_fidelity]
    told = {
        "seed": seed,
        "reason": study.reason,
        "trials": len(study.trials),
        "seconds": round(seconds),
        "worker_seconds": round(sum(trial.cost_s for trial in study.trials)),
        "config": champion.config.model_dump(mode="json"),
    }
    yield {"row": "source_only of the search", "accuracy": found[0]}
    yield {"row": "champion", "accuracy": found[champion.number], **told}
    yield {"row": "best at full fidelity, by target labels", "accuracy": max(complete)}


def recipes(task: Task, names: Sequence[str], rates: Sequence[float] | None) -> Iterator[dict[str, object]]:
    """Each recipe at its best rate."""
    file = load_search_file(task.space)
    places = str(task.source), str(task.target), str(task.target_test)
    pair = load_pair(*places, file.data.model_copy(update={"on_overlap": "skip"}), file.search.seed)
    middle = file.space().baseline()
    config = TrialConfig(
        backbone=Component(name=middle.backbone.name), batch_size=64, epochs=file.search.epochs, seed=file.search.seed
    )
    for name in names:
        if name == "fastai" and find_spec("fastai") is None:
            yield {"row": name, "accuracy": None, "why": "fastai is not installed"}
            continue
        started, outcome = time.monotonic(), best_rate(name, pair, config, rates)
        right = _share_right(task, pair.source.classes, outcome.predictions)
        seconds = round(time.monotonic() - started)
        yield {"row": name, "accuracy": right, "rate": outcome.rate, "holdout": outcome.holdout, "seconds": seconds}


def _evidence(folder: Path, trial: TrialRecord) -> np.ndarray:
    return TrialFiles(folder, trial.number).load_evidence()["target_test"]


def _accuracy(task: Task, classes: Sequence[str], probabilities: np.ndarray) -> float:
    return _share_right(task, classes, probabilities.argmax(axis=1))


def _share_right(task: Task, classes: Sequence[str], predicted: np.ndarray) -> float:
    return float(np.mean([classes[row] == true for row, true in zip(predicted, task.truth, strict=True)]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", nargs="+", choices=[SEARCH, *RECIPES], default=[SEARCH, *RECIPES], help="all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the search, each one a search")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--space", type=Path, help="instead of the one that is shipped for the task")
    parser.add_argument("--rates", type=float, nargs="+", help="of the recipes; by default what suits the network")
    parser.add_argument("--data", type=Path, help="where the data are, or shall be kept")
    parser.add_argument("--home", type=Path, help="where the studies shall be kept")
    return parser.parse_args(namespace=argparse.Namespace(load=os.getloadavg()))


if __name__ == "__main__":
    main()
