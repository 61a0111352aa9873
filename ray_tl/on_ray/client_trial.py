"""A Tune trial that trains nothing. Its process imports no torch, so it starts quickly."""

import time
from dataclasses import asdict
from typing import Any

import ray
from ray import tune

from ray_tl.config import TrialConfig
from ray_tl.on_ray.trial_queue import Job, Outcome
from ray_tl.selection import rule_of
from ray_tl.study.records import EpochRecord

Result = dict[str, Any]
FAILED_OBJECTIVE = -1e9


class ClientTrial(tune.Trainable):
    """Submits its configuration to the trial queue and relays the reports."""

    def setup(self, config: Result) -> None:
        self._queue, self._rule = config["queue"], rule_of(config["spec"])
        self._submit(config)

    def step(self) -> Result:
        """One epoch, or the outcome of a trial that could not go on."""
        message = ray.get(self._queue.next_message.remote(self._job.key))
        if isinstance(message, Outcome):
            error = message.error or "it ended without a report."
            return {"objective": FAILED_OBJECTIVE, "error": error, "infeasible": message.infeasible, "done": True}
        record = EpochRecord(objective=self._rule.objective(message.scores, message.histogram), **asdict(message))
        done = record.epoch >= self._job.config.epochs
        return {"epoch": record.epoch, "objective": record.objective, "record": record.model_dump_json(), "done": done}

    def reset_config(self, new_config: Result) -> bool:
        self._stop()
        self._submit(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the slots write checkpoints."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Nothing: the slots read checkpoints."""

    def cleanup(self) -> None:
        self._stop()

    def _submit(self, config: Result) -> None:
        number = config["number"]
        trial = TrialConfig.model_validate(config["trial"])
        self._job = Job(f"{number}-{time.time_ns()}", number, trial)
        ray.get(self._queue.submit.remote(self._job))

    def _stop(self) -> None:
        ray.get(self._queue.stop.remote(self._job.key))
