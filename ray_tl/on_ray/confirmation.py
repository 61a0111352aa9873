"""What trials have left, and whether it comes out again."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from zipfile import BadZipFile

import ray

from ray_tl.on_ray.trial_queue import Job, Outcome
from ray_tl.selection.choice import EvidenceOf
from ray_tl.study.records import TrialRecord
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles

MIN_AGREEMENT = 0.99
READERS = 8  # of evidence, which may come from far away
Confirmation = dict[str, object]


def evidence_of(store: StudyStore) -> EvidenceOf:
    """What the trials of a study left at their end, by number."""
    return lambda number: TrialFiles.of(store, number).load_trial_evidence()


def readable_trials(store: StudyStore) -> tuple[list[TrialRecord], list[str]]:
    """All trials but those at full fidelity whose evidence is gone or damaged, and what is wrong with these."""
    found, trials, problems = store.trials(), [], []
    with ThreadPoolExecutor(READERS) as readers:
        answers = readers.map(partial(_problem_of_evidence, store), found)
    for trial, problem in zip(found, answers, strict=True):
        if problem is None:
            trials.append(trial)
        else:
            problems.append(f"trial {trial.number} takes no part in the choice: {problem}")
    return trials, problems


def _problem_of_evidence(store: StudyStore, trial: TrialRecord) -> str | None:
    if not trial.at_full_fidelity:
        return None
    try:
        evidence_of(store)(trial.number)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        return f"its evidence can't be read ({type(error).__name__}: {error})"
    return None


def reevaluate(trial: TrialRecord, queue: ray.actor.ActorHandle) -> tuple[Confirmation, str | None]:
    """Load the checkpoint afresh in a slot and evaluate it; gives what came out, and what is wrong with it."""
    job = Job(f"evaluate-{trial.number}-{time.time_ns()}", trial.number, trial.config, "evaluate")
    ray.get(queue.submit.remote(job))
    outcome: Outcome = ray.get(queue.next_message.remote(job.key, 0))
    ray.get(queue.stop.remote(job.key))
    if outcome.result is None:
        return {}, outcome.error or "it gave no result"
    agreement = float(str(outcome.result["agreement"]))
    problem = None if agreement >= MIN_AGREEMENT else f"only {agreement:.1%} of its predictions come out again"
    return outcome.result, problem
