"""Kills whatever a search consists of, at random and again and again, and looks whether every trial counts once.

    python -m tests.soak.kills [--kills 50] [--seed 0] [--trials N] [--limit-s 5400] [-o REPORT.md] [--keep FOLDER]

A Ray cluster of a head and two workers, one processor each, runs one long `ray-tl search` of tiny trials. Killed are
worker processes of trials, Tune's client processes, the process of the trial queue, the driver, whole worker nodes, and
the head; each with SIGKILL, without a warning. The driver is started again by `--resume-or-start`, nodes are replaced,
and after the loss of its head the cluster is another one. Most kills wait until an epoch has been stored since the last
one; some of workers, clients, queues and nodes come before, while the search still recovers.

In the end every trial must be final, every epoch stored once and in order, a champion chosen, and no process left over.
Exit status 1 if it is not so.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import yaml

from ray_tl import api
from ray_tl.study.folder import DATABASE
from tests.on_ray.searching import SPACE, squares
from tests.soak.checks import problems_of, problems_of_rows, rows_of
from tests.soak.driver import HEAD_GONE, Driver
from tests.soak.nodes import CLIENT, OF_SEARCHES, QUEUE, WORKER, SmallCluster, kill_all, until
from tests.soak.report import Kill, Outcome, report_of

WEIGHTS = {"worker": 12, "client": 12, "queue": 9, "node": 9, "driver": 5, "head": 3}
KINDS = tuple(WEIGHTS)
ALL_STOP = ("driver", "head")
NOTICED_LATE = ("queue", "head", "driver")  # the driver still stores what it has been told before
NUM_WORKERS = 2
TITLES = {"worker": WORKER, "client": CLIENT, "queue": QUEUE}
PROGRESS_S, VICTIM_S, HEAD_S, LEFT_S = 600.0, 300.0, 180.0, 120.0
PAUSE_S = (0.5, 4.0)
EARLY = 0.4
NAME = "soak"
# The pace keeps the search going until the last kill, and the processors free; a file `go` quickens it.
PACED = """
import time
from pathlib import Path

import torch

class Paced(torch.nn.Module):
    def __init__(self, folder, pace_s):
        super().__init__()
        self.go, self.pace_s = Path(folder) / "go", pace_s

    def forward(self, x):
        if self.training and not x.is_meta:
            time.sleep(self.pace_s / 4 if self.go.exists() else self.pace_s)
        return x

def build(folder, pace_s):
    first = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 8))
    return torch.nn.Sequential(first, torch.nn.Sequential(Paced(folder, pace_s), torch.nn.Linear(8, 8)))
"""


def kinds_of_kills(count: int, chance: random.Random) -> list[str]:
    """So many kinds in random order: of each its share, and where there are six or more at least one."""
    total = sum(WEIGHTS.values())
    counts = {kind: max(1, count * weight // total) for kind, weight in WEIGHTS.items()}
    kinds = [kind for kind in KINDS for _ in range(counts[kind])]
    kinds += chance.choices(KINDS[:4], k=max(0, count - len(kinds)))
    chance.shuffle(kinds)
    return kinds[:count]


class Progress(threading.Thread):
    """Looks several times a second how many epochs are stored, and notes it for kills that wait for the next one."""

    def __init__(self, database: Path) -> None:
        super().__init__(name="progress", daemon=True)
        self._database = database
        self._waiting: list[Kill] = []
        self._mutex, self._ended = threading.Lock(), threading.Event()
        self.num_epochs = 0

    def run(self) -> None:
        while not self._ended.wait(0.2):
            with suppress(Exception):  # before the study is there, and while its database is being restored
                count = len(rows_of(self._database))
                if count > self.num_epochs:
                    self._note(count)

    def end(self) -> None:
        self._ended.set()
        self.join()

    def wait_for(self, kill: Kill) -> None:
        """Note when an epoch is stored that is not there yet."""
        with self._mutex:
            with suppress(Exception):
                self.num_epochs = max(self.num_epochs, len(rows_of(self._database)))
            self._waiting.append(kill)

    @property
    def is_made(self) -> bool:
        """Whether an epoch has been stored since the last kill."""
        with self._mutex:
            return self.num_epochs > 0 and not self._waiting

    def _note(self, count: int) -> None:
        with self._mutex:
            self.num_epochs = count
            for kill in self._waiting:
                kill.progress_s = time.monotonic() - kill.at
            self._waiting.clear()


class Soak:
    """One search, and all that happens to it.

    Args:
        folder: For data, study and what drivers say.
        num_trials: Of the search; enough that it is not over before the last kill.
        chance: For pauses and victims.
        say: Called with a line for each kill.
    """

    def __init__(self, folder: Path, num_trials: int, chance: random.Random, say: Callable[[str], None]) -> None:
        self._folder, self._num_trials, self._chance, self._say = folder, num_trials, chance, say
        source, target = squares(folder)
        stated = [str(_space(folder, num_trials)), "--source", str(source), "--target", str(target)]
        self._driver = Driver(folder, [*stated, "--home", str(folder), "--name", NAME])
        self._database = folder / "studies" / NAME / DATABASE
        self._progress = Progress(self._database)
        self._cluster: SmallCluster
        self._problems: list[str] = []

    def run(self, kinds: list[str], limit_s: float) -> Outcome:
        """Search and kill until both are done; what goes wrong is a problem of the outcome."""
        began, kills = time.monotonic(), list[Kill]()
        self._cluster = SmallCluster(NUM_WORKERS).__enter__()
        self._progress.start()
        try:
            self._driver.start(self._cluster.address)
            for kind in kinds:
                if time.monotonic() - began > limit_s:
                    raise TimeoutError(f"--limit-s={limit_s:g} was over after {len(kills)} kills")
                kills.append(self._kill(kind, kills[-1].kind if kills else "driver"))
                self._say(f"{time.monotonic() - began:6.0f} s: kill {len(kills)}/{len(kinds)}, {kind}")
            (self._folder / "go").touch()
            until(self._has_finished, max(60.0, began + limit_s - time.monotonic()), "the search has ended")
            self._require_nothing_left()
        except Exception as error:
            self._problems.append(f"{type(error).__name__}: {error}")
        finally:
            self._driver.kill()
            self._progress.end()
            self._cluster.__exit__()
        return self._outcome(kills, time.monotonic() - began)

    def _kill(self, kind: str, before: str) -> Kill:
        early = kind not in ALL_STOP and before not in ALL_STOP and self._chance.random() < EARLY
        if not early:
            until(self._makes_progress, PROGRESS_S, "an epoch is stored after the last kill")
        time.sleep(self._chance.uniform(*PAUSE_S))
        self._keep_going()
        self._say(f"          next: {kind}")
        victims = self._victims(kind) if kind in TITLES else []
        kill, queues_lost = Kill(kind, time.monotonic(), early and not self._progress.is_made), self._queues_lost()
        if kind not in NOTICED_LATE:
            self._progress.wait_for(kill)
        kill_all(victims)
        {"node": self._kill_node, "driver": self._kill_driver, "head": self._kill_head}.get(kind, lambda: None)()
        if kind == "queue":
            until(lambda: self._queues_lost() > queues_lost, PROGRESS_S, "the driver goes on with a new queue")
        if kind in NOTICED_LATE:
            self._progress.wait_for(kill)
        return kill

    def _queues_lost(self) -> int:
        self._keep_going()
        return self._driver.num_queues_lost()

    def _victims(self, kind: str) -> list:
        found: list = []

        def is_there() -> bool:
            self._keep_going()
            found[:] = self._cluster.named(TITLES[kind])
            return bool(found)

        until(is_there, VICTIM_S, f"there is a {kind} to kill")
        return [self._chance.choice(found)]

    def _kill_node(self) -> None:
        self._cluster.replace(self._chance.randrange(NUM_WORKERS))

    def _kill_driver(self) -> None:
        self._driver.kill()
        self._driver.start(self._cluster.address)

    def _kill_head(self) -> None:
        self._cluster.head.kill()
        until(lambda: self._driver.status is not None, HEAD_S, "the driver ends after its head")
        if self._driver.status == 0 or HEAD_GONE not in self._driver.said():
            self._problems.append(f"after the loss of its head the driver ended with {self._driver.status} and no word")
        self._cluster.__exit__()
        self._cluster = SmallCluster(NUM_WORKERS).__enter__()
        self._driver.start(self._cluster.address)

    def _makes_progress(self) -> bool:
        self._keep_going()
        return self._progress.is_made

    def _has_finished(self) -> bool:
        if self._driver.status == 0:
            return True
        self._keep_going()
        return False

    def _keep_going(self) -> None:
        """A driver that ended by itself is a problem; it is started again, to see what becomes of the rest."""
        if self._driver.status is None:
            return
        if self._driver.status == 0:
            raise RuntimeError("the search was over before the last kill; give it more --trials")
        last = (self._driver.said().strip().splitlines() or ["without a word"])[-1]
        self._problems.append(f"start {self._driver.starts} of the driver ended with {self._driver.status}: {last}")
        self._say(self._problems[-1])
        self._driver.start(self._cluster.address)

    def _require_nothing_left(self) -> None:
        try:
            until(lambda: not self._cluster.named(*OF_SEARCHES), LEFT_S, "no process of the search is left")
        except TimeoutError:
            left = sorted(" ".join(process.cmdline())[:60] for process in self._cluster.named(*OF_SEARCHES))
            self._problems.append(f"left over after the search: {', '.join(left)}")

    def _outcome(self, kills: list[Kill], seconds: float) -> Outcome:
        outcome = Outcome(kills, [], self._problems, seconds, self._driver.starts)
        outcome.slots_lost, outcome.queues_lost = self._driver.num_slots_lost(), self._driver.num_queues_lost()
        try:
            found = api.status(NAME, self._folder)
            outcome.trials, printed = found.trials, self._driver.champion()
            outcome.problems += problems_of(found.trials, self._num_trials, found.champion, outcome.counts)
            outcome.problems += problems_of_rows(rows_of(self._database), found.trials)
            if printed != found.champion:
                outcome.problems.append(f"champion {found.champion} is stored, but {printed} was printed")
        except Exception as error:
            outcome.problems.append(f"{type(error).__name__}: {error}")
        return outcome


def _space(folder: Path, num_trials: int) -> Path:
    (folder / "paced.py").write_text(PACED)
    trial = {**SPACE["trial"], "backbone": {"paced": {"folder": str(folder), "pace_s": 0.4}}}
    search = {"num_trials": num_trials, "epochs": 6, "grace_epochs": 2, "min_steps": None, "refit": None}
    content = {**SPACE, "backbones": {"paced": "paced.py:build"}, "search": search, "trial": trial}
    path = folder / "paced.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of kinds, pauses and victims")
    parser.add_argument("--trials", type=int, help="of the search; default: 8 a kill, and at least 40")
    parser.add_argument("--limit-s", type=float, default=5400, help="for all of it")
    parser.add_argument("-o", "--output", type=Path, help="file for the report; default: standard output")
    parser.add_argument("--keep", type=Path, help="new folder for the study and what drivers say; default: removed")
    stated = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is ended too
    chance = random.Random(stated.seed)
    folder = stated.keep or Path(tempfile.mkdtemp(prefix="soak"))
    folder.mkdir(parents=True, exist_ok=True)
    num_trials = stated.trials or max(40, 8 * stated.kills)
    soak = Soak(folder.resolve(), num_trials, chance, lambda line: print(line, file=sys.stderr, flush=True))
    outcome = soak.run(kinds_of_kills(stated.kills, chance), stated.limit_s)
    report = report_of(outcome, stated.seed, num_trials)
    if stated.output is None:
        print(report)
    else:
        stated.output.write_text(report)
    if stated.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
