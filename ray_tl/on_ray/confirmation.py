"""What trials have left, and whether it comes out again."""

import time
from pathlib import Path

import ray

from ray_tl.on_ray.trial_queue import Job, Outcome
from ray_tl.selection.choice import EvidenceOf
from ray_tl.study.records import TrialRecord
from ray_tl.training.files import TrialFiles

MIN_AGREEMENT = 0.99
Confirmation = dict[str, object]


def evidence_of(folder: Path) -> EvidenceOf:
    """What the trials of a study left at their end, by number."""
    return lambda number: TrialFiles(folder, number).load_trial_evidence()


def reevaluate(trial: TrialRecord, queue: ray.actor.ActorHandle) -> tuple[Confirmation, str | None]:
    """Load the checkpoint afresh in a slot and evaluate it; gives what came out, and what is wrong with it."""
    job = Job(f"evaluate-{trial.number}-{time.time_ns()}", trial.number, trial.config, "evaluate")
    ray.get(queue.submit.remote(job))
    outcome: Outcome = ray.get(queue.next_message.remote(job.key))
    if outcome.result is None:
        return {}, outcome.error or "it gave no result"
    agreement = float(str(outcome.result["agreement"]))
    problem = None if agreement >= MIN_AGREEMENT else f"only {agreement:.1%} of its predictions come out again"
    return outcome.result, problem
