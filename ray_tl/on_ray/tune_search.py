"""Ray Tune over warm slots: a thin client trial, a searcher over the study store, ASHA rebuilt from it."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.config import TrialConfig
from ray_tl.models.fine_tuning import UNFREEZING
from ray_tl.on_ray.client_trial import ClientTrial, Result
from ray_tl.on_ray.slots import SlotPool
from ray_tl.study.records import EpochRecord, StudySpec, TrialRecord, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles

Watcher = Callable[[TrialRecord], None]
MANY_STAGES = 100  # of a network whose size nobody has asked for
CLIENT_RESOURCES = {"memory": 1e6}  # a client only waits: no processor is taken from the slots


class StudySearcher(Searcher):
    """Asks the study store for trials and tells it everything that happens to them.

    Args:
        store: Held exclusively by this process.
        queue: Handle of the trial queue, passed on to the clients.
        slots: So many trials run at a time, and one more waits.
        num_workers: Of each trial, for the cost.
        deadline: `time.monotonic()` after which no new trial is asked for; `None` for never.
        watchers: Called with the stored trial whenever it has changed.
    """

    def __init__(
        self,
        store: StudyStore,
        queue: ray.actor.ActorHandle,
        slots: SlotPool,
        num_workers: int,
        deadline: float | None,
        watchers: Sequence[Watcher],
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self._store, self._queue, self._slots = store, queue, slots
        self._num_workers, self._deadline, self._watchers = num_workers, deadline, watchers
        self._left_over = store.reconcile()
        self._live: dict[str, TrialRecord] = {}

    def suggest(self, trial_id: str) -> Result | str | None:
        """The next trial; `FINISHED` when the study has all it wants, `None` while there is no room."""
        self._slots.grow(time.monotonic())
        if len(self._live) > len(self._slots):
            return None
        if not self._left_over and self._is_done():
            return Searcher.FINISHED
        trial = self._left_over.pop(0) if self._left_over else self._store.ask()
        self._live[trial_id] = trial
        self._watch(trial)
        config = trial.config.model_dump(mode="json")
        return {
            "number": trial.number,
            "is_raced": is_raced(trial),
            "is_advised": trial.is_advised,
            "warm_up": warm_up_epochs(trial.config),
            "trial": config,
            "queue": self._queue,
            "spec": self._store.spec,
        }

    def on_trial_result(self, trial_id: str, result: Result) -> None:
        self._remember(self._live[trial_id].number, result)

    def on_trial_complete(self, trial_id: str, result: Result | None = None, error: bool = False) -> None:
        trial = self._live.pop(trial_id)
        if result:
            self._remember(trial.number, result)
        state, reason = _final_state(trial.config, result, error)
        self._store.finish(trial.number, state, reason)
        if state is TrialState.PRUNED:  # it can neither win nor go on
            TrialFiles(self._store.folder, trial.number).checkpoint.unlink(missing_ok=True)
        self._watch(self._store.trial(trial.number))

    def has_finished(self) -> bool:
        """Whether every trial that was wanted has ended; not so after Ctrl-C."""
        return not self._live and not self._left_over and self._is_done()

    def __deepcopy__(self, memo: dict) -> "StudySearcher":
        return self  # Tune copies what it is given, but there is one study

    def __getstate__(self) -> dict:
        return {}  # Tune pickles what it is given; nothing of it is ever restored

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is durable."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store is durable."""

    def _watch(self, trial: TrialRecord) -> None:
        for watcher in self._watchers:
            watcher(trial)

    def _is_done(self) -> bool:
        late = self._deadline is not None and time.monotonic() > self._deadline
        return late or self._store.num_asked() >= self._store.spec.search.num_trials

    def _remember(self, number: int, result: Result) -> None:
        if isinstance(record := result.get("record"), str):  # as text, because Tune flattens what is nested
            self._store.add_epoch(number, EpochRecord.model_validate_json(record), self._num_workers)
            self._watch(self._store.trial(number))


class StudyASHA(ASHAScheduler):
    """Asynchronous successive halving whose rungs are rebuilt from the store (Li et al., 2020).

    A trial keeps its number from process to process, so it is known to the rungs by that, not by Tune's name for it.
    Source-only is never stopped and never counted. Neither is a closed-form method: it has no value at a lower rung,
    and others should not be measured at theirs by its final one; the same holds for the last report of a trial that
    stopped early. Advised trials are counted but never stopped: the champion is chosen in the features of trials at
    full fidelity, and these differ from one another on purpose. A trial in which the head trains alone first is not
    compared before its stages have trained for the grace period, and at no rung that it has passed by then.

    Args:
        spec: Of the study.
        stored: Trials of an earlier process, those that go on now among them.
    """

    def __init__(self, spec: StudySpec, stored: list[TrialRecord]) -> None:
        self._grace_epochs = min(spec.search.grace_epochs, spec.search.epochs)
        super().__init__(
            time_attr="epoch",
            metric="objective",
            mode="max",
            max_t=spec.search.epochs,
            grace_period=self._grace_epochs,
            reduction_factor=spec.search.reduction_factor,
        )
        self._rung_epochs = {math.ceil(rung) for rung, _ in self._brackets[0]._rungs}
        for record in stored:
            if is_raced(record):
                self._replay(record)

    def on_trial_add(self, tune_controller: object, trial: tune.experiment.Trial) -> None:
        super().on_trial_add(tune_controller, _by_number(trial.config["number"]))

    def on_trial_result(self, tune_controller: object, trial: tune.experiment.Trial, result: Result) -> str:
        if not trial.config["is_raced"] or not self._compares(trial.config["warm_up"], int(result["epoch"])):
            return self.CONTINUE
        decision = str(super().on_trial_result(tune_controller, _by_number(trial.config["number"]), result))
        return self.CONTINUE if trial.config["is_advised"] else decision

    def on_trial_complete(self, tune_controller: object, trial: tune.experiment.Trial, result: Result) -> None:
        """Nothing: each epoch was counted when it came, and one that stopped early has no value at rungs between."""

    def on_trial_remove(self, tune_controller: object, trial: tune.experiment.Trial) -> None:
        super().on_trial_remove(tune_controller, _by_number(trial.config["number"]))

    def _replay(self, record: TrialRecord) -> None:
        super().on_trial_add(None, _by_number(record.number))
        warm_up = warm_up_epochs(record.config)
        for epoch in record.epochs:
            if self._compares(warm_up, epoch.epoch):
                result = {"epoch": epoch.epoch, "objective": epoch.objective}
                super().on_trial_result(None, _by_number(record.number), result)

    def _compares(self, warm_up: int, epoch: int) -> bool:
        if warm_up == 0 or epoch >= self._max_t:
            return True
        return epoch >= warm_up + self._grace_epochs and epoch in self._rung_epochs


def is_raced(trial: TrialRecord) -> bool:
    """Whether a trial takes part in successive halving."""
    is_special = trial.is_baseline or trial.refit_of is not None
    return not is_special and not is_closed_form(trial.config.method.name)


def warm_up_epochs(config: TrialConfig) -> int:
    """Epochs at the start in which the head trains alone, though stages will train later."""
    if config.freeze_depth == "head_only":
        return 0
    schedule = UNFREEZING.create(config.unfreezing.name, config.unfreezing.params)
    starts = (epoch / config.epochs for epoch in range(config.epochs))
    return sum(schedule.depth_at(progress, 0, MANY_STAGES) == MANY_STAGES for progress in starts)


def run_trials(store: StudyStore, searcher: StudySearcher, pruning: bool, max_clients: int, log_folder: str) -> None:
    """Run Tune until the study has all its trials; returns early, with the store whole, on Ctrl-C."""
    scheduler = StudyASHA(store.spec, store.trials()) if pruning else None
    study = store.spec.name  # Tune pickles with every trial what names it, and the store can't be pickled
    tuner = tune.Tuner(
        tune.with_resources(ClientTrial, tune.PlacementGroupFactory([CLIENT_RESOURCES])),
        tune_config=tune.TuneConfig(
            metric="objective" if scheduler is None else None,
            mode="max" if scheduler is None else None,
            num_samples=-1,
            max_concurrent_trials=max_clients,
            reuse_actors=True,
            search_alg=searcher,
            scheduler=scheduler,
            trial_name_creator=lambda trial: f"{study}-{trial.config['number']:04d}",
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(name="tune", storage_path=log_folder, verbose=0),
    )
    with own_interrupts():
        tuner.fit()


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Ctrl-C does afterwards what it did before: Tune leaves its handler behind, which swallows the first."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _by_number(number: int) -> SimpleNamespace:
    """All that ASHA looks at in a trial."""
    return SimpleNamespace(trial_id=str(number))


def _final_state(config: TrialConfig, result: Result | None, error: bool) -> tuple[TrialState, str | None]:
    reason = result.get("error") if result else None
    if reason is not None:
        infeasible = bool(result and result.get("infeasible"))
        return (TrialState.INFEASIBLE if infeasible else TrialState.FAILED), str(reason)
    if error or result is None:
        return TrialState.FAILED, "its Tune client ended with an error; see the Ray logs."
    finished = int(str(result.get("epoch", 0))) >= config.epochs
    return (TrialState.COMPLETE if finished else TrialState.PRUNED), None
