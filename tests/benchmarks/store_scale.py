"""What the driver of a search pays in the study store for a trial, and whether that grows with their number.

    python tests/benchmarks/store_scale.py [--trials 2000] [--space image_folders] [--storage ADDRESS] [--json]

Trials of a real search space are asked for, report three epochs and end, eight at a time, with the calls that a search
makes: before each trial they are counted, after each change the trial is read again. Objectives are random; one trial
in four is pruned after its second epoch.

Times are the milliseconds of a trial in a kind of call, means over 50 trials; `processor` is the time that they took
the processor, without waiting for the disk. Growth is by how much the line of least squares through the trials from the
200th on rises over 1,000 trials, as a share of their mean, with two standard errors.
"""

import argparse
import json
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from ray_tl.components import catalogue
from ray_tl.home import shipped_file
from ray_tl.search_space import load_search_file
from ray_tl.study.records import DataSource, EpochRecord, StudySpec, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import studies_at

EPOCHS, SLOTS, WINDOW = 3, 8, 50
CALLS = ("count", "ask", "add_epoch", "finish", "trial")
COLUMNS = (*CALLS, "total", "processor")
STEADY = 200
R = TypeVar("R")


class Driver:
    """Does with a store what a search does, by the clock.

    Attributes:
        ms: By trial and kind of call, and in all `processor`.
    """

    def __init__(self, store: StudyStore, seed: int) -> None:
        self._store, self._random = store, np.random.default_rng(seed)
        self.ms: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys((*CALLS, "processor"), 0.0))

    def run(self, num_trials: int) -> None:
        """Trials take turns at reporting an epoch; one that has ended makes room for the next."""
        live: list[int] = []
        for begun in range(num_trials):
            self._timed(begun, "count", self._store.num_asked)
            live.append(self._timed(begun, "ask", self._store.ask).number)
            while len(live) == SLOTS or (begun + 1 == num_trials and live):
                live = [number for number in live if not self._ends(number)]

    def _ends(self, number: int) -> bool:
        """Report the next epoch of a trial; whether it was the last."""
        done = len(self._timed(number, "trial", lambda: self._store.trial(number)).epochs) + 1
        record = an_epoch(done, float(self._random.normal()))
        self._timed(number, "add_epoch", lambda: self._store.add_epoch(number, record, 1))
        is_pruned = done == EPOCHS - 1 and self._random.random() < 0.25
        if not is_pruned and done < EPOCHS:
            return False
        state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE
        self._timed(number, "finish", lambda: self._store.finish(number, state))
        self._timed(number, "trial", lambda: self._store.trial(number))
        return True

    def _timed(self, number: int, kind: str, call: Callable[[], R]) -> R:
        began_at, processor_s = time.perf_counter(), time.process_time()
        found = call()
        self.ms[number][kind] += 1000 * (time.perf_counter() - began_at)
        self.ms[number]["processor"] += 1000 * (time.process_time() - processor_s)
        return found


def an_epoch(number: int, objective: float) -> EpochRecord:
    """As large as one of a search with ten classes and the usual validators."""
    names = ("im", "bnm", "source_accuracy", "neighbours", "nearest_labels", "source_entropy")
    return EpochRecord(
        epoch=number,
        objective=objective,
        scores={name: objective / (index + 1) for index, name in enumerate(names)},
        histogram=[0.1] * 10,
        losses={"task": 1.25, "domain": 0.5},
        weights={"task": 1.0, "domain": 0.75},
        freeze_depth=2,
        lr=1e-3,
        seconds=1.5,
        health={"gradient_norm": 1.5, "share_of_zeros": 0.25},
        source_recalls=[0.9] * 10,
    )


def a_spec(space_name: str, num_trials: int) -> StudySpec:
    """A study of a search space that is shipped."""
    file = load_search_file(shipped_file(f"search_spaces/{space_name}.yaml"))
    space = file.space().resolved(catalogue())
    return StudySpec(
        name="scale",
        data=DataSource(source="digits:mnist", target="digits:optdigits"),
        search=file.search.model_copy(update={"num_trials": num_trials}),
        trees=space.trees,
        first=(space.baseline(),),
        data_fingerprint="ab",
        classes=tuple("0123456789"),
        source_histogram=(0.1,) * 10,
        num_target=1000,
        created_at="2026-01-02T03:04:05+00:00",
    )


def measure(space_name: str, num_trials: int, folder: Path, address: str | None = None) -> dict[str, object]:
    """Run the driver; windows, growth, memory, and the size of the database."""
    name = f"scale-{time.strftime('%Y%m%d-%H%M%S')}"
    spec = a_spec(space_name, num_trials).model_copy(update={"name": name})
    store = StudyStore.create(studies_at(folder, address).backend(name), spec)
    before_mib = peak_mib()
    driver = Driver(store, seed=0)
    with store.exclusive():
        driver.run(num_trials)
    ms = {kind: np.array([driver.ms[number][kind] for number in range(num_trials)]) for kind in (*CALLS, "processor")}
    ms["total"] = np.sum([ms[kind] for kind in CALLS], axis=0)
    ends = [end for end in (50, 500, 1000, 2000) if end <= num_trials]
    return {
        "windows": {end: {kind: float(each[end - WINDOW : end].mean()) for kind, each in ms.items()} for end in ends},
        "growth": {kind: growth(each) for kind, each in ms.items()},
        "mean_ms": float(ms["total"].mean()),
        "memory_mib": {"before": before_mib, "peak": peak_mib()},
        "files_mib": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20,
    }


def growth(ms: np.ndarray) -> tuple[float, float] | None:
    """Rise of the line over 1,000 trials, as a share of the mean, and two standard errors; `None` for few trials."""
    steady = ms[STEADY:]
    if len(steady) < WINDOW:
        return None
    (slope, _), covariance = np.polyfit(np.arange(len(steady)), steady, 1, cov=True)
    scale = 1000 / steady.mean()
    return float(slope * scale), float(2 * covariance[0, 0] ** 0.5 * scale)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--space", default="image_folders", help="of search_spaces/")
    parser.add_argument("--folder", help="of the file system to measure; default: the system's temporary one")
    parser.add_argument("--storage", help="of a PostgreSQL database; default: SQLite")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(arguments.space, arguments.trials, Path(folder), arguments.storage)
    print(json.dumps(found)) if arguments.json else show(found)


def show(found: dict) -> None:
    table = Table("trials", *COLUMNS, title="ms a trial")
    for end, cells in found["windows"].items():
        table.add_row(f"{end - WINDOW + 1} to {end}", *(f"{cells[name]:.2f}" for name in COLUMNS))
    table.add_row("growth, %", *(in_percent(found["growth"][name]) for name in COLUMNS))
    Console(width=110).print(table)
    memory = found["memory_mib"]
    print(f"mean {found['mean_ms']:.1f} ms; peak memory {memory['peak']:.0f} MiB, {memory['before']:.0f} of it before")
    print(f"files {found['files_mib']:.1f} MiB")


def in_percent(rise: tuple[float, float] | None) -> str:
    return "" if rise is None else f"{100 * rise[0]:+.0f} ± {100 * rise[1]:.0f}"


if __name__ == "__main__":
    main()
