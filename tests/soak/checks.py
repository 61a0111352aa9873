"""What must hold of a study whose search has been broken again and again."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from ray_tl.on_ray.tune_search import MAX_LOST_CLIENTS
from ray_tl.study.failures import RETRIES, FailureKind
from ray_tl.study.records import TrialRecord, TrialState

Step = tuple[int, int]
"""Number of a trial, and an epoch of it."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
CAUSES = {
    FailureKind.WORKER_DIED: ("worker", "node"),
    FailureKind.NODE_LOST: ("node",),
    FailureKind.START_FAILED: ("worker", "node"),
}
"""What was killed where a trial fails so."""


def problems_of(
    trials: Sequence[TrialRecord], num_trials: int, champion: int | None, kills: Mapping[str, int]
) -> list[str]:
    """What is wrong with a study that has ended, a line each; nothing if every trial is final and counted once.

    Args:
        trials: As stored.
        num_trials: That were asked for.
        champion: Number of the chosen trial.
        kills: How many there were of each kind; a trial may fail where they are enough to use up a budget.
    """
    found = _problems_of_numbers([trial.number for trial in trials], num_trials)
    for trial in trials:
        found += [f"trial {trial.number} {problem}" for problem in _problems_of_trial(trial, kills)]
    if champion not in [trial.number for trial in trials if trial.at_full_fidelity]:
        found.append(f"champion {champion} is no trial at full fidelity")
    return found


def problems_of_rows(rows: Sequence[Step], trials: Sequence[TrialRecord]) -> list[str]:
    """Whether the rows of the database are the epochs of the trials, each once."""
    twice = [step for step, count in Counter(rows).items() if count > 1]
    expected = {(trial.number, epoch.epoch) for trial in trials for epoch in trial.epochs}
    found = [f"epoch {epoch} of trial {number} is there more than once" for number, epoch in twice]
    if expected != set(rows):
        found.append(f"these epochs are in one place only: {sorted(expected ^ set(rows))}")
    return found


def used_up(trial: TrialRecord, kills: Mapping[str, int]) -> bool:
    """Whether a trial failed because a budget of retries was used up, by so many kills of each kind."""
    if trial.state is not TrialState.FAILED:
        return False
    if trial.failure is None:
        is_lost = f"client was lost {MAX_LOST_CLIENTS + 1} times" in (trial.error or "")
        return is_lost and kills.get("client", 0) > MAX_LOST_CLIENTS
    return sum(kills.get(cause, 0) for cause in CAUSES.get(trial.failure, ())) > RETRIES[trial.failure]


def rows_of(database: Path) -> list[Step]:
    """Every epoch that the database of a study holds, read without ray_tl."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        return connection.execute(
            "SELECT trials.number, step FROM trial_intermediate_values JOIN trials USING (trial_id)"
        ).fetchall()


def _problems_of_numbers(numbers: Sequence[int], num_trials: int) -> list[str]:
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    found = [f"trial {number} is there more than once" for number in twice]
    found += [f"trial {number} is missing" for number in sorted(set(range(num_trials)) - set(numbers))]
    return found + [f"trial {number} was not asked for" for number in sorted(set(numbers) - set(range(num_trials)))]


def _problems_of_trial(trial: TrialRecord, kills: Mapping[str, int]) -> list[str]:
    epochs = [epoch.epoch for epoch in trial.epochs]
    found = []
    if epochs != list(range(1, len(epochs) + 1)):
        found.append(f"has the epochs {epochs}")
    if trial.state not in ENDED and not used_up(trial, kills):
        found.append(f"is {trial.state}: {trial.error or 'without an error'}")
    if trial.state in ENDED and (trial.state is TrialState.COMPLETE) != (len(epochs) == trial.config.epochs):
        found.append(f"is {trial.state} after {len(epochs)} of {trial.config.epochs} epochs")
    return found
