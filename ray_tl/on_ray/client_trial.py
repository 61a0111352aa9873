"""A Tune trial that trains nothing. Its process imports no torch, so it starts quickly."""

import secrets
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError

from ray_tl.on_ray.trial_queue import Outcome
from ray_tl.selection import rule_of
from ray_tl.study.records import EpochRecord

Result = dict[str, Any]
FAILED_OBJECTIVE = -1e9


class ClientTrial(tune.Trainable):
    """Relays the reports of a trial that waits in the trial queue, or is trained.

    One that is killed loses nothing: the next client of the same trial is given what this one had not passed on.
    """

    _key: str
    _epoch: int
    _epochs: int

    def setup(self, config: Result) -> None:
        self._queue, self._client = ray.get_actor(config["queue"]), secrets.token_hex(8)
        self._rule = rule_of(ray.get(self._queue.spec.remote()))
        self._take(config)

    def step(self) -> Result:
        """One epoch, or the outcome of a trial that could not go on."""
        try:
            message = ray.get(self._queue.next_message.remote(self._key, self._epoch, self._client))
        except RayActorError:
            return _ended(Outcome(is_withdrawn=True))  # the queue is gone
        if isinstance(message, Outcome):
            return _ended(message)
        self._epoch = message.epoch
        record = EpochRecord(objective=self._rule.objective(message.scores, message.histogram), **asdict(message))
        done = record.epoch >= self._epochs
        return {"epoch": record.epoch, "objective": record.objective, "record": record.model_dump_json(), "done": done}

    def reset_config(self, new_config: Result) -> bool:
        self._stop()
        self._take(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the slots write checkpoints."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Nothing: the slots read checkpoints."""

    def cleanup(self) -> None:
        self._stop()

    def _take(self, config: Result) -> None:
        self._key, self._epoch, self._epochs = config["key"], config["known"], config["epochs"]

    def _stop(self) -> None:
        with suppress(RayActorError):
            ray.get(self._queue.stop.remote(self._key, self._client))


def _ended(outcome: Outcome) -> Result:
    result: Result = {"objective": FAILED_OBJECTIVE, "done": True, "withdrawn": outcome.is_withdrawn}
    if outcome.failure is not None:
        return result | {"error": outcome.failure.message, "kind": outcome.failure.kind.value}
    return result | {"error": "it ended without a report.", "kind": "error"}
