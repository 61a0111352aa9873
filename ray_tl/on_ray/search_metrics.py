"""What a running search tells Prometheus."""

from collections.abc import Mapping

from ray_tl.on_ray.metrics import MetricsExporter
from ray_tl.on_ray.trial_queue import QueueStatus
from ray_tl.study.records import EpochRecord, TrialRecord, TrialState


class SearchMetrics:
    """Fills the metric table from trials and slots.

    Args:
        study: Name, the label of every metric.
        exporter: Keeps gauges alive between changes.
        stored: Trials of an earlier process.
    """

    def __init__(self, study: str, exporter: MetricsExporter, stored: list[TrialRecord]) -> None:
        self._study, self._exporter = study, exporter
        self._trials = {trial.number: trial for trial in stored}
        self._restarts: dict[int, int] = {}

    def trial_changed(self, trial: TrialRecord) -> None:
        """A trial began, finished an epoch, or ended."""
        before = self._trials.get(trial.number)
        self._trials[trial.number] = trial
        if trial.state is not TrialState.RUNNING:
            self._exporter.forget(study=self._study, trial=trial.number)
            self._exporter.observe("tl_trial_seconds", sum(e.seconds for e in trial.epochs), study=self._study)
        elif trial.last is not None and (before is None or len(before.epochs) < len(trial.epochs)):
            self._epoch(trial.number, trial.last)
        self._totals()

    def slots_changed(self, num_slots: int, status: QueueStatus, restarts: Mapping[int, int]) -> None:
        """The queue was asked how its slots are; with how often each came back."""
        self._exporter.set("tl_slots", num_slots, study=self._study)
        self._exporter.set("tl_slots_busy", len(status.busy), study=self._study)
        self._exporter.set("tl_queue_length", status.waiting, study=self._study)
        for slot, count in restarts.items():
            new = count - self._restarts.get(slot, 0)
            self._exporter.increment("tl_slot_restarts_total", new, study=self._study, slot=slot)
        self._restarts = dict(restarts)

    def close(self) -> None:
        self._exporter.close()

    def _epoch(self, number: int, epoch: EpochRecord) -> None:
        labels: dict[str, str | int] = {"study": self._study, "trial": number}
        self._exporter.set("tl_trial_score", epoch.objective, **labels)
        self._exporter.set("tl_trial_epoch", epoch.epoch, **labels)
        self._exporter.observe("tl_epoch_seconds", epoch.seconds, study=self._study)
        for validator, score in epoch.scores.items():
            self._exporter.set("tl_trial_validator_score", score, validator=validator, **labels)
        for loss, value in epoch.losses.items():
            self._exporter.set("tl_trial_loss", value, loss=loss, **labels)
        for loss, weight in epoch.weights.items():
            self._exporter.set("tl_trial_loss_weight", weight, loss=loss, **labels)

    def _totals(self) -> None:
        for state in TrialState:
            count = sum(trial.state is state for trial in self._trials.values())
            self._exporter.set("tl_trials", count, study=self._study, state=state.value)
        finished = [trial.last.objective for trial in self._trials.values() if trial.at_full_fidelity and trial.last]
        if finished:
            self._exporter.set("tl_best_score", max(finished), study=self._study)
