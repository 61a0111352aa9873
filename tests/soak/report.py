"""What a soak gives, and how it is told."""

import os
import platform
import statistics
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version

import psutil

from ray_tl.study.records import TrialRecord, TrialState
from tests.soak.checks import used_up


@dataclass
class Kill:
    """One kill.

    Attributes:
        kind: Of what was killed.
        at: When, by `time.monotonic()`.
        is_early: Whether it came before the search had made progress since the kill before.
        progress_s: After so long the next epoch of any trial was stored; of a queue or head, the next after the driver
            had gone on with another queue, or had ended.
    """

    kind: str
    at: float
    is_early: bool
    progress_s: float | None = None


@dataclass
class Outcome:
    """What a soak gives.

    Attributes:
        problems: What was not as it must be, a line each.
        seconds: From the start of the cluster to its end.
        driver_starts: How often the driver was started.
        slots_lost: How often drivers said that a slot was lost.
        queues_lost: How often they went on with a new trial queue.
    """

    kills: list[Kill]
    trials: list[TrialRecord]
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    driver_starts: int = 0
    slots_lost: int = 0
    queues_lost: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Kills of each kind."""
        return Counter(kill.kind for kill in self.kills)


def report_of(outcome: Outcome, seed: int, num_trials: int) -> str:
    """Markdown, without names of machines or places on them."""
    states = Counter(trial.state for trial in outcome.trials)
    failed = Counter(
        trial.failure.words if trial.failure else "client lost"
        for trial in outcome.trials
        if used_up(trial, outcome.counts)
    )
    budgets = ", ".join(f"{count} x {kind}" for kind, count in failed.items()) or "none"
    epochs = sum(len(trial.epochs) for trial in outcome.trials)
    early = sum(kill.is_early for kill in outcome.kills)
    lines = [
        "# Soak: a search that is killed again and again",
        "",
        f"`make soak ARGS='--kills {len(outcome.kills)} --seed {seed} --trials {num_trials}'`; what it does, and what "
        "it checks, is said in `tests/soak/kills.py`.",
        "",
        _verdict(outcome.problems),
        "",
        "| killed | times | seconds until the next epoch was stored: median | worst |",
        "|---|---:|---:|---:|",
        *(_row(kind, outcome.kills) for kind in sorted(outcome.counts)),
        "",
        f"- Trials: {len(outcome.trials)} of {num_trials} asked for; "
        + ", ".join(f"{states[state]} {state}" for state in TrialState if states[state])
        + f"; {epochs} epochs.",
        f"- Trials that failed because a budget of retries was used up: {budgets}.",
        f"- Kills that came before the search had made progress since the one before: {early} of {len(outcome.kills)}.",
        f"- Starts of the driver: {outcome.driver_starts}; slots lost and started again: {outcome.slots_lost}; trial "
        f"queues replaced: {outcome.queues_lost}.",
        f"- It took {outcome.seconds / 60:.0f} minutes on {os.cpu_count()} cores and "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory ({platform.system()}, Python "
        f"{platform.python_version()}, Ray {version('ray')}, ray_tl {version('ray-tl')}); seed {seed}.",
        "",
        "The next epoch may be that of another slot: after the loss of a worker, a client or a node the other slots go "
        "on meanwhile. The loss of the queue, the driver or the head stops all of them; what a "
        "driver stores before it notices does not count as the next epoch.",
    ]
    return "\n".join(lines) + "\n"


def _verdict(problems: list[str]) -> str:
    if not problems:
        return (
            "**Every trial is final and counted once**, each with its epochs once and in order; a champion was chosen "
            "and confirmed, and no process of the search was left over."
        )
    return "\n".join(["**Not as it must be:**", "", *(f"- {problem}" for problem in problems)])


def _row(kind: str, kills: list[Kill]) -> str:
    seconds = [kill.progress_s for kill in kills if kill.kind == kind and kill.progress_s is not None]
    times = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}" if seconds else "never | never"
    return f"| {kind} | {sum(kill.kind == kind for kill in kills)} | {times} |"
