"""Ray Tune over warm slots: a thin client trial, a searcher over the study store, ASHA rebuilt from it."""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Protocol

from ray import tune
from ray.exceptions import RayActorError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.config import TrialConfig
from ray_tl.models.fine_tuning import UNFREEZING
from ray_tl.on_ray.client_trial import ClientTrial, Result
from ray_tl.on_ray.placement import on_this_node
from ray_tl.on_ray.trial_queue import Job
from ray_tl.on_ray.tune_memory import ForgetEnded
from ray_tl.study.failures import FailureKind
from ray_tl.study.records import EpochRecord, StudySpec, TrialRecord, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles

Watcher = Callable[[TrialRecord], None]
MAX_LOST_CLIENTS = 10
MANY_STAGES = 100  # of a network whose size nobody has asked for
CLIENT_RESOURCES = {"memory": 1e6}  # a client only waits: no processor is taken from the slots


class Slots(Protocol):
    """What a search needs to know of its slots."""

    @property
    def problem(self) -> Exception | None:
        """Why the search can't go on."""
        ...

    @property
    def num_up(self) -> int:
        """How many of them have asked for a job."""
        ...

    def require_queue(self) -> None:
        """Find out at once whether the queue is still there."""
        ...


class Submission(Protocol):
    """What a search needs to know of its queue; see `QueueHandle`."""

    @property
    def name(self) -> str:
        """By which clients find it."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job; one that is known goes on where it is."""
        ...


class StudySearcher(Searcher):
    """Asks the study store for trials and tells it everything that happens to them.

    Args:
        store: Held exclusively by this process.
        queue: Where trials are submitted, and the name by which clients find it.
        slots: As many trials as are up run at a time, and one more waits: a client is a process, and should not take
            time from slots that start.
        num_workers: Of each trial, for the cost.
        deadline: `time.monotonic()` after which no new trial is asked for; `None` for never.
        watchers: Called with the stored trial whenever it has changed.
    """

    def __init__(
        self,
        store: StudyStore,
        queue: Submission,
        slots: Slots,
        num_workers: int,
        deadline: float | None,
        watchers: Sequence[Watcher],
    ) -> None:
        super().__init__(metric="objective", mode="max")
        self._store, self._queue, self._slots = store, queue, slots
        self._num_workers, self._deadline, self._watchers = num_workers, deadline, watchers
        self._left_over = store.reconcile()
        self._live: dict[str, TrialRecord] = {}
        self._lost_clients: Counter[int] = Counter()
        self._in_a_row: tuple[FailureKind | None, int] = None, 0
        self.stopped: str | None = None

    def suggest(self, trial_id: str) -> Result | str | None:
        """The next trial; `FINISHED` when the study has all it wants, `None` while there is no room."""
        if self.stopped is not None or self._slots.problem is not None:
            return Searcher.FINISHED
        if len(self._live) > self._slots.num_up:
            return None
        trial = self._next()
        if trial is None:
            return Searcher.FINISHED
        job = Job(f"trial-{trial.number}", trial.number, trial.config)
        try:
            self._queue.submit(job)
        except RayActorError:
            self._left_over.insert(0, trial)
            self._slots.require_queue()
            return None
        self._live[trial_id] = trial
        self._watch(trial)
        return {
            "number": trial.number,
            "key": job.key,
            "known": trial.last.epoch if trial.last else 0,
            "epochs": trial.config.epochs,
            "is_raced": is_raced(trial),
            "is_planned": trial.is_prepared or trial.is_advised,
            "warm_up": warm_up_epochs(trial.config),
            "queue": self._queue.name,
        }

    def on_trial_result(self, trial_id: str, result: Result) -> None:
        self._remember(self._live[trial_id].number, result)

    def on_trial_complete(self, trial_id: str, result: Result | None = None, error: bool = False) -> None:
        trial = self._live.pop(trial_id)
        if (result is None and error) or (result and result.get("withdrawn")):
            self._take_back(trial, is_lost=not result)
            return
        if result:
            self._remember(trial.number, result)
        self._finish(trial, result)

    def has_finished(self) -> bool:
        """Whether every trial that was wanted has ended; not so after Ctrl-C."""
        return not self._live and not self._left_over and self._is_done()

    def _next(self) -> TrialRecord | None:
        """The next trial to train: first those that an earlier process has begun."""
        while self._left_over:
            trial = self._store.trial(self._left_over.pop(0).number)
            if not trial.is_trained_but_open:
                return trial
            self._end(trial, TrialState.COMPLETE)  # that process ended right before it could say so
        return None if self._is_done() else self._store.ask()

    def _take_back(self, trial: TrialRecord, is_lost: bool) -> None:
        """A trial whose client is gone, or that was sent home: it goes on with another client, or when resumed."""
        self._slots.require_queue()
        self._lost_clients[trial.number] += is_lost
        if self._lost_clients[trial.number] > MAX_LOST_CLIENTS:
            self._end(trial, TrialState.FAILED, f"its Tune client was lost {MAX_LOST_CLIENTS + 1} times.")
        else:
            self._left_over.append(trial)

    def _finish(self, trial: TrialRecord, result: Result | None) -> None:
        kind = FailureKind(result["kind"]) if result and "kind" in result else None
        if kind is None:
            finished = int(str(result["epoch"])) >= trial.config.epochs if result else False
            self._end(trial, TrialState.COMPLETE if finished else TrialState.PRUNED)
            self._in_a_row = None, 0
            return
        state = TrialState.INFEASIBLE if kind.is_of_memory else TrialState.FAILED
        assert result is not None
        self._end(trial, state, str(result["error"]), kind)
        before, count = self._in_a_row
        self._in_a_row = kind, count + 1 if kind is before else 1
        limit = self._store.spec.search.max_failures_in_a_row
        if self._in_a_row[1] >= limit:
            self.stopped = f"{limit} trials in a row ended with {kind.words!r}, the last with: {result['error']}"

    def _end(
        self, trial: TrialRecord, state: TrialState, reason: str | None = None, kind: FailureKind | None = None
    ) -> None:
        self._store.finish(trial.number, state, reason, kind)
        if state is TrialState.PRUNED:  # it can neither win nor go on
            TrialFiles.of(self._store, trial.number).remove_checkpoint()
        self._watch(self._store.trial(trial.number))

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
    stopped early. Prepared and advised trials are counted but never stopped: the champion is chosen in the features of
    trials at full fidelity, and these differ from one another on purpose. A trial in which the head trains alone first
    is not compared before its stages have trained for the grace period, and at no rung that it has passed by then.

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
        return self.CONTINUE if trial.config["is_planned"] else decision

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
    here = tune.PlacementGroupFactory([CLIENT_RESOURCES], bundle_label_selector=[on_this_node()])
    tuner = tune.Tuner(
        tune.with_resources(ClientTrial, here),
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
        run_config=tune.RunConfig(
            name="tune",
            storage_path=log_folder,
            verbose=0,
            callbacks=[ForgetEnded()],
            # There is nothing to save; and while Tune saves, it starts a process for the next trial instead of reusing.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
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
