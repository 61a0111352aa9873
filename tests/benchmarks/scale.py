"""What the driver pays for a trial as a study grows: trials of no work, on a cluster of many nodes on one machine.

    python tests/benchmarks/scale.py [--trials 2000] [--nodes 16] [--window 100] [--json]

Ray, Tune, the trial queue, its clients, the searcher with TPE, ASHA and the study's database are the real ones. Slots
are actors that train nothing: they answer every epoch at once with random scores. So all that is left is what `ray_tl`
and Tune do beside training.

Reported are processor time of the driver for a trial, in windows of `--window` trials, its growth by a straight line
through the windows (milliseconds a trial for every 1,000 trials), the driver's memory, what Tune keeps on disk for a
trial, and wall time.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from ray_tl.data.places import MNIST, OPTDIGITS
from ray_tl.on_ray.session import ENVIRONMENT
from ray_tl.on_ray.trial_queue import Holder, Job, Limits, Outcome, start_queue
from ray_tl.on_ray.tune_search import StudySearcher, run_trials
from ray_tl.planning import plan_search
from ray_tl.search_space import load_search_file
from ray_tl.study.records import DataSource, TrialRecord, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.report import EpochReport

SPACE = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"


@dataclass(frozen=True)
class Moment:
    """When a trial had ended.

    Attributes:
        trials: That had ended by then.
        processor_s: Of the driver.
        wall_s: Since the search began.
        memory_mb: Of the driver.
    """

    trials: int
    processor_s: float
    wall_s: float
    memory_mb: float


class Watch:
    """Notes a moment for every trial that ends."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._began, self._process = time.monotonic(), psutil.Process()

    def __call__(self, trial: TrialRecord) -> None:
        if trial.state is not TrialState.RUNNING:
            memory = self._process.memory_info().rss / 2**20
            wall = time.monotonic() - self._began
            self.moments.append(Moment(len(self.moments) + 1, time.process_time(), wall, memory))


class AllThere:
    """Slots that never fail."""

    problem = None

    def __init__(self, count: int) -> None:
        self.num_up = count

    def require_queue(self) -> None:
        """It is there."""


@ray.remote(num_cpus=1)
def work_nothing(queue: ray.actor.ActorHandle, slot: int) -> None:
    """Take every job, and answer its epochs at once."""
    random, holder = np.random.default_rng(slot), Holder(slot)
    while (job := ray.get(queue.next_job.remote(holder, 20.0))) != "closed":
        if isinstance(job, Job):
            quality = random.uniform()
            for epoch in range(1, job.config.epochs + 1):
                if ray.get(queue.report.remote(holder, job.key, report_of(epoch, quality))):
                    break
            ray.get(queue.end.remote(holder, job.key, Outcome()))


def report_of(epoch: int, quality: float) -> EpochReport:
    """As large as a real one."""
    names = ("source_accuracy", "im", "bnm", "entropy", "neighbours", "nearest_labels")
    health = {f"health_{number}": quality for number in range(12)}
    scores = dict.fromkeys(names, quality * epoch / 10)
    losses = {"task": 1 - quality, "domain": 0.5}
    return EpochReport(
        epoch, scores, [0.1] * 10, losses, losses, 0, 1e-3, 0.0, health=health, source_recalls=[0.9] * 10
    )


def main() -> None:
    options = _parse()
    os.environ.update(ENVIRONMENT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(options.nodes):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            store = study_of(options.trials, Path(folder))
            moments, bytes_a_trial = searched(store, options.nodes)
    finally:
        ray.shutdown()
        cluster.shutdown()
    report(moments, bytes_a_trial, options)


def study_of(trials: int, folder: Path) -> StudyStore:
    file = load_search_file(SPACE)
    search = file.search.model_copy(update={"num_trials": trials, "refit": None, "epochs": 3, "grace_epochs": 1})
    source = DataSource(source=MNIST, target=OPTDIGITS, options=file.data)
    return plan_search(file.model_copy(update={"search": search}), source, "scale", folder).store


def searched(store: StudyStore, nodes: int) -> tuple[list[Moment], float]:
    """Run all trials; gives a moment for each, and the bytes that Tune keeps of one."""
    queue = start_queue(store.spec, ray.put(None), Limits())
    for slot in range(nodes):
        work_nothing.remote(queue.actor, slot)
    watch, log = Watch(), store.folder / "ray"
    searcher = StudySearcher(store, queue, AllThere(nodes), 1, None, [watch])
    run_trials(store, searcher, True, nodes + 1, str(log))
    ray.get(queue.actor.close.remote())
    state = max(log.rglob("experiment_state-*.json"), key=lambda path: path.stat().st_mtime)
    return watch.moments, state.stat().st_size / len(watch.moments)


def windows(moments: list[Moment], size: int) -> list[tuple[Moment, float, float]]:
    """The last moment of each window, with processor time and wall time of a trial in it, in milliseconds."""
    ends = moments[::size]
    return [
        (after, 1e3 * (after.processor_s - before.processor_s) / size, 1e3 * (after.wall_s - before.wall_s) / size)
        for before, after in pairwise(ends)
    ]


def report(moments: list[Moment], bytes_a_trial: float, options: argparse.Namespace) -> None:
    found = windows(moments, options.window)
    at = np.array([moment.trials for moment, _, _ in found])
    slope, start = np.polyfit(at, [cost for _, cost, _ in found], 1)
    summary = {
        "trials": len(moments),
        "nodes": options.nodes,
        "processor_ms_a_trial": round(1e3 * (moments[-1].processor_s - moments[0].processor_s) / (len(moments) - 1), 1),
        "at_the_start_ms": round(float(start), 1),
        "growth_ms_for_1000_trials": round(1e3 * float(slope), 2),
        "tune_bytes_a_trial": round(bytes_a_trial),
        "driver_memory_mb": [round(moments[0].memory_mb), round(moments[-1].memory_mb)],
        "wall_s": round(moments[-1].wall_s, 1),
    }
    if options.json:
        print(
            json.dumps({**summary, "windows": [(m.trials, round(cost, 1), round(wall, 1)) for m, cost, wall in found]})
        )
        return
    table = Table("trials", "driver ms a trial", "wall ms a trial", "driver MB")
    for moment, cost, wall in found:
        table.add_row(str(moment.trials), f"{cost:.1f}", f"{wall:.1f}", f"{moment.memory_mb:.0f}")
    Console().print(table)
    for key, value in summary.items():
        print(f"{key}: {value}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="figures as one JSON line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
