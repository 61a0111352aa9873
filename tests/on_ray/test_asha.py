import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.tune import _setup_signal_catching

from ray_tl.config import Component, TrialConfig
from ray_tl.on_ray.trial_queue import Job
from ray_tl.on_ray.tune_search import (
    MAX_LOST_CLIENTS,
    StudyASHA,
    StudySearcher,
    is_raced,
    own_interrupts,
    warm_up_epochs,
)
from ray_tl.study.records import Advice, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles
from tests.examples import BASELINE, epoch, spec, store

EPOCHS = 9
Event = tuple[int, int, float]  # trial, epoch, objective


class Pool:
    """As many slots as it says."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.problem: Exception | None = None

    @property
    def num_up(self) -> int:
        return self.size

    def require_queue(self) -> None:
        """It is there."""


class Queue:
    """Remembers what was submitted."""

    name = "queue"

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)


def tune_trial(number: int, name: str = "tune", **changes: object) -> SimpleNamespace:
    config = {"number": number, "is_raced": True, "is_planned": False, "warm_up": 0, **changes}
    return SimpleNamespace(trial_id=f"{name}-{number}", config=config)


def random_events(seed: int, trials: int = 12, at_once: int = 3) -> list[Event]:
    """Every epoch of every trial, in order within a trial, trials interleaved at random."""
    generator = np.random.default_rng(seed)
    left = {number: list(range(1, EPOCHS + 1)) for number in range(trials)}
    events = []
    while left:
        number = int(generator.choice(list(left)[:at_once]))
        events.append((number, left[number].pop(0), float(generator.normal())))
        left = {key: value for key, value in left.items() if value}
    return events


def decisions(scheduler: ASHAScheduler, events: list[Event], name: str = "tune", known: set[int] = frozenset()):
    """What it says to each event; a trial is added at its first, and its events end where it is stopped."""
    said: dict[Event, str] = {}
    added, stopped = set(known), set()
    for number, number_epoch, objective in events:
        trial = tune_trial(number, name)
        if number in stopped:
            continue
        if number not in added:
            scheduler.on_trial_add(None, trial)
            added.add(number)
        result = {"epoch": number_epoch, "objective": objective}
        said[number, number_epoch, objective] = scheduler.on_trial_result(None, trial, result)
        if said[number, number_epoch, objective] == scheduler.STOP:
            stopped.add(number)
            scheduler.on_trial_complete(None, trial, result)
    return said


def ray_asha() -> ASHAScheduler:
    return ASHAScheduler("epoch", "objective", "max", max_t=EPOCHS, grace_period=1, reduction_factor=3)


def stored_after(root: Path, said: dict[Event, str]) -> StudyStore:
    """A study in which exactly these reports came in, and trials that were stopped have ended."""
    opened = store(root, first=[BASELINE.model_copy(update={"epochs": EPOCHS})] * 20, num_trials=20)
    for _ in range(1 + max(number for number, _, _ in said)):
        opened.ask()
    for (number, number_epoch, objective), decision in said.items():
        opened.add_epoch(number, epoch(number_epoch, objective), 1)
        end = {"STOP": opened.finish}.get(decision, lambda *_: None)
        end(number, TrialState.COMPLETE if number_epoch == EPOCHS else TrialState.PRUNED)
    return opened


@pytest.mark.parametrize("seed", range(20))
def test_new_study_decides_as_ray_does(seed):
    events = random_events(seed)
    said = decisions(StudyASHA(spec(), []), events)
    assert said == decisions(ray_asha(), events)
    assert {"STOP", "CONTINUE"} == set(said.values())


@pytest.mark.parametrize("seed", range(3))
def test_resumed_study_decides_as_if_it_had_never_stopped(tmp_path, seed):
    events = [(number + 1, *rest) for number, *rest in random_events(seed, trials=8)]  # 0 is the baseline
    whole = decisions(ray_asha(), events)
    before = dict(list(whole.items())[: len(whole) // 2])
    opened = stored_after(tmp_path, before)
    resumed = StudyASHA(opened.spec, StudyStore(opened.folder).trials())
    live = {record.number for record in opened.trials() if record.state is TrialState.RUNNING}
    for number in sorted(live, reverse=True):
        resumed.on_trial_add(None, tune_trial(number, "resumed"))
    after = list(whole)[len(whole) // 2 :]
    assert decisions(resumed, after, "resumed", live) == {event: whole[event] for event in after}
    assert live & {number for number, _, _ in after}


def test_a_trial_that_stopped_early_is_measured_at_no_rung_that_it_skipped():
    # Rungs at 3 and 9 of 12 epochs; trial 0 stops early behind the first, and says 0.9 in the place of epoch 12.
    others = [(number, rung, value) for rung, value in ((3, 0.9), (9, 0.5)) for number in range(1, 6)]
    early = [(0, 3, 0.9), (0, 12, 0.9)]
    with_it, without = (
        decisions(StudyASHA(spec(epochs=12, grace_epochs=3), []), [*events, *others]) for events in (early, early[:1])
    )
    assert with_it.pop(early[1]) == "STOP"
    assert with_it == without


def later(method: str = "mcc", **fields: object) -> TrialConfig:
    """Of nine epochs, in whose first three the head trains alone."""
    return BASELINE.model_copy(
        update={"unfreezing": Component(name="probe_then_fine_tune"), "method": Component(name=method), **fields}
    )


@pytest.mark.parametrize(
    ("fields", "epochs"),
    [
        ({}, 3),
        ({"freeze_depth": "head_only"}, 0),
        ({"unfreezing": Component(name="fixed")}, 0),
        ({"unfreezing": Component(name="gradual")}, 1),
        ({"unfreezing": Component(name="probe_then_fine_tune", params={"until": 0.5})}, 5),
    ],
)
def test_epochs_of_the_head_alone_are_warming_up(fields, epochs):
    assert warm_up_epochs(later(**fields)) == epochs


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_trial_whose_head_trains_alone_first_is_compared_once_its_stages_have_trained(tmp_path, is_stored):
    # Rungs at 1, 3 and 9 epochs with a warm-up of two: not at 1, where it is worst, but at 3, after one of its stages.
    opened = store(tmp_path, first=[BASELINE, later(epochs=6)] * 2, num_trials=4)
    assert warm_up_epochs(later(epochs=6)) == 2
    probing = [opened.ask(), opened.ask()][1].number
    reports = [(1, 0.1), (2, 0.2)]
    for number, value in reports:
        opened.add_epoch(probing, epoch(number, value), 1)
    scheduler, trial = StudyASHA(opened.spec, opened.trials() if is_stored else []), tune_trial(probing, warm_up=2)
    scheduler.on_trial_add(None, trial)
    decisions(scheduler, [(7, 1, 0.5), (7, 2, 0.5), (7, 3, 0.5), (8, 1, 0.6)])
    for number, value in [] if is_stored else reports:
        assert scheduler.on_trial_result(None, trial, {"epoch": number, "objective": value}) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, {"epoch": 3, "objective": 0.7}) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, {"epoch": 4, "objective": 0.0}) == "CONTINUE"
    assert rungs(scheduler) == {9: {}, 3: {"7": 0.5, str(probing): 0.7}, 1: {"7": 0.5, "8": 0.6}}
    worse = tune_trial(11, warm_up=2)
    scheduler.on_trial_add(None, worse)
    assert scheduler.on_trial_result(None, worse, {"epoch": 3, "objective": 0.3}) == "STOP"


def test_live_trial_counts_before_tune_has_taken_it_up_again(tmp_path):
    opened = stored_after(tmp_path, {(1, 1, 0.9): "CONTINUE", (2, 1, 0.8): "CONTINUE"})
    resumed = StudyASHA(opened.spec, opened.trials())
    assert decisions(resumed, [(3, 1, 0.5)]) == {(3, 1, 0.5): "STOP"}


@pytest.mark.parametrize(
    ("changes", "counted"),
    [({"is_raced": False}, {}), ({"is_planned": True}, {"0": 0.01})],
    ids=["baseline", "planned"],
)
def test_the_baseline_and_planned_trials_are_never_stopped_and_the_latter_alone_are_counted(changes, counted):
    scheduler, safe = StudyASHA(spec(), []), tune_trial(0, **changes)
    scheduler.on_trial_add(None, safe)
    decisions(scheduler, [(1, 1, 0.5), (2, 1, 0.6)])
    for number in range(1, EPOCHS + 1):
        assert scheduler.on_trial_result(None, safe, {"epoch": number, "objective": 0.01}) == "CONTINUE"
    scheduler.on_trial_complete(None, safe, {"epoch": EPOCHS, "objective": 9.0})
    assert rungs(scheduler) == {9: {}, 3: counted, 1: counted | {"1": 0.5, "2": 0.6}}


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.COMPLETE])
def test_stored_baseline_is_not_counted_whether_it_has_ended_or_goes_on(tmp_path, state):
    opened = store(tmp_path)
    number = opened.ask().number
    opened.add_epoch(number, epoch(1, 0.9), 1)
    {TrialState.COMPLETE: opened.finish}.get(state, lambda *_: None)(number, state)
    scheduler = StudyASHA(opened.spec, opened.trials())
    scheduler.on_trial_add(None, tune_trial(number, is_raced=False))
    assert rungs(scheduler) == {9: {}, 3: {}, 1: {}}


def test_a_closed_form_trial_takes_no_part_whether_it_is_live_or_stored(tmp_path):
    solved = BASELINE.model_copy(update={"method": Component(name="logistic")})
    opened = store(tmp_path, first=[BASELINE, solved])
    numbers = [opened.ask().number, opened.ask().number]
    assert [is_raced(opened.trial(number)) for number in numbers] == [False, False]
    opened.add_epoch(1, epoch(EPOCHS, 0.9), 1)
    opened.finish(1, TrialState.COMPLETE)
    scheduler, live = StudyASHA(opened.spec, opened.trials()), tune_trial(2, is_raced=False)
    scheduler.on_trial_add(None, live)
    scheduler.on_trial_complete(None, live, {"epoch": EPOCHS, "objective": 9.0})
    assert rungs(scheduler) == {9: {}, 3: {}, 1: {}}


def test_a_single_report_at_the_last_epoch_makes_a_complete_trial(tmp_path):
    opened = store(tmp_path)
    search = searcher(opened)
    search.suggest("a")
    search.on_trial_complete("a", result(EPOCHS, 0.75))
    assert opened.trial(0).state is TrialState.COMPLETE
    assert opened.trial(0).at_full_fidelity
    assert opened.trial(0).last.objective == 0.75


def test_grace_can_not_outlast_the_trials():
    scheduler = StudyASHA(spec(epochs=2, grace_epochs=5), [])
    assert list(rungs(scheduler)) == [2]


def test_removed_trial_is_forgotten_by_number():
    scheduler = StudyASHA(spec(), [])
    scheduler.on_trial_add(None, tune_trial(4))
    scheduler.on_trial_remove(None, tune_trial(4, "other"))
    assert scheduler._trial_info == {}


# the searcher


def searcher(opened: StudyStore, slots: int = 8, deadline: float | None = None) -> StudySearcher:
    return StudySearcher(opened, Queue(), Pool(slots), 1, deadline, [])


def result(number: int, objective: float = 0.5) -> dict[str, object]:
    return {"epoch": number, "objective": objective, "record": epoch(number, objective).model_dump_json()}


def test_searcher_suggests_until_the_study_has_all_its_trials(tmp_path):
    search = searcher(store(tmp_path, num_trials=2))
    first, second = search.suggest("a"), search.suggest("b")
    assert (first["number"], first["is_raced"], first["known"]) == (0, False, 0)
    assert search._queue.jobs[0].config.method.name == "source_only"
    assert (second["number"], second["is_raced"]) == (1, True)
    assert search.suggest("c") == Searcher.FINISHED
    assert not search.has_finished()


def test_what_was_prepared_or_advised_is_planned_and_what_the_sampler_asks_is_not(tmp_path):
    trees = {"backbone": "tiny_cnn", "method": {"choice": ["coral", "mcc"]}}
    changes = {"advice": (Advice(params={"method": "mcc"}, reason="a guess"),), "trees": trees}
    prepared = (BASELINE, BASELINE.model_copy(update={"augmentation": Component(name="affine")}))
    search = searcher(StudyStore.create(tmp_path / "office", spec(first=prepared).model_copy(update=changes)))
    assert [search.suggest(name)["is_planned"] for name in "abcd"] == [True, True, True, False]


def test_searcher_keeps_one_trial_waiting_beyond_the_slots(tmp_path):
    search = searcher(store(tmp_path), slots=1)
    assert search.suggest("a")["number"] == 0
    assert search.suggest("b")["number"] == 1
    assert search.suggest("c") is None
    search.on_trial_complete("a", result(1))
    assert search.suggest("c")["number"] == 2


def test_left_over_trials_come_first_even_after_the_deadline(tmp_path):
    opened = store(tmp_path)
    opened.ask()
    opened.ask()
    opened.finish(0, TrialState.FAILED)
    search = searcher(StudyStore(opened.folder), deadline=time.monotonic() - 1)
    assert search.suggest("a")["number"] == 1
    assert search.suggest("b") == Searcher.FINISHED


def test_result_is_stored_once_and_told_to_the_watcher(tmp_path):
    seen = []
    opened = store(tmp_path)
    search = StudySearcher(opened, Queue(), Pool(1), 2, None, [seen.append])
    search.suggest("a")
    search.on_trial_result("a", result(1))
    search.on_trial_complete("a", result(1))
    assert opened.trial(0).epochs == [epoch(1)]
    assert opened.trial(0).cost_s == 4.0
    assert [(record.state, len(record.epochs)) for record in seen][-1] == (TrialState.PRUNED, 1)


def failed(kind: str, error: str = "no luck.") -> dict[str, object]:
    return {"objective": -1e9, "error": error, "kind": kind, "done": True, "withdrawn": False}


@pytest.mark.parametrize(
    ("last", "state", "reason"),
    [
        (result(EPOCHS), "complete", None),
        (result(2), "pruned", None),
        (failed("not_finite"), "failed", "no luck."),
        (failed("out_of_memory"), "infeasible", "no luck."),
        (failed("out_of_shared_memory"), "infeasible", "no luck."),
        (failed("hung"), "failed", "no luck."),
    ],
)
def test_end_of_a_trial_has_a_state_and_a_reason(tmp_path, last, state, reason):
    opened = store(tmp_path, num_trials=1)
    search = searcher(opened)
    search.suggest("a")
    search.on_trial_complete("a", last)
    assert (opened.trial(0).state, opened.trial(0).error) == (TrialState(state), reason)
    assert search.has_finished()


def test_trial_whose_client_was_killed_goes_on_with_the_next_one(tmp_path):
    opened = store(tmp_path, num_trials=1)
    search = searcher(opened)
    search.suggest("a")
    search.on_trial_result("a", result(1))
    search.on_trial_complete("a", error=True)
    again = search.suggest("b")
    assert (again["number"], again["known"]) == (0, 1)
    assert [job.key for job in search._queue.jobs] == ["trial-0", "trial-0"]
    assert opened.trial(0).state is TrialState.RUNNING


def test_trial_whose_clients_are_always_killed_fails(tmp_path):
    opened = store(tmp_path, num_trials=1)
    search = searcher(opened)
    for number in range(MAX_LOST_CLIENTS + 1):
        search.suggest(str(number))
        search.on_trial_complete(str(number), error=True)
    assert opened.trial(0).state is TrialState.FAILED
    assert search.has_finished()


def test_trial_that_was_sent_home_stays_open_for_a_resumed_search(tmp_path):
    opened = store(tmp_path, num_trials=1)
    search = searcher(opened)
    search.suggest("a")
    search.on_trial_complete("a", {"objective": -1e9, "withdrawn": True})
    assert opened.trial(0).state is TrialState.RUNNING
    assert not search.has_finished()


def test_trial_that_had_trained_to_its_end_is_not_trained_again(tmp_path):
    opened = store(tmp_path, num_trials=1)
    searcher(opened).suggest("a")
    opened.add_epoch(0, epoch(EPOCHS), 1)
    assert searcher(StudyStore(opened.folder)).suggest("b") == Searcher.FINISHED
    assert opened.trial(0).state is TrialState.COMPLETE


@pytest.mark.parametrize(("kinds", "stops"), [(["hung"] * 3, True), (["hung", "hung", "not_finite", "hung"], False)])
def test_search_stops_when_trials_fail_for_the_same_reason_in_a_row(tmp_path, kinds, stops):
    search = searcher(store(tmp_path, num_trials=9, max_failures_in_a_row=3))
    for number, kind in enumerate(kinds):
        search.suggest(str(number))
        search.on_trial_complete(str(number), failed(kind))
    assert (search.suggest("last") == Searcher.FINISHED) == stops
    assert (search.stopped == "3 trials in a row ended with 'hung', the last with: no luck.") == stops


def test_trial_that_ended_well_breaks_the_row(tmp_path):
    search = searcher(store(tmp_path, num_trials=9, max_failures_in_a_row=3))
    for number, last in enumerate([failed("hung"), failed("hung"), result(EPOCHS), failed("hung")]):
        search.suggest(str(number))
        search.on_trial_complete(str(number), last)
    assert search.stopped is None


@pytest.mark.parametrize(("last", "is_kept"), [(result(EPOCHS), True), (result(2), False)])
def test_a_pruned_trial_leaves_no_checkpoint(tmp_path, last, is_kept):
    opened = store(tmp_path, num_trials=1)
    search, files = searcher(opened), TrialFiles(opened.folder, 0)
    search.suggest("a")
    files.save_checkpoint({"task": {}})
    search.on_trial_complete("a", last)
    assert files.checkpoint.exists() == is_kept
    assert opened.trial(0).checkpoint == ("checkpoints/0000.pt" if is_kept else None)


def rungs(scheduler: ASHAScheduler) -> dict[float, dict[str, float]]:
    (bracket,) = scheduler._brackets
    return dict(bracket._rungs)


@pytest.fixture
def _python_handles_interrupts():
    """A process that was started in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_handles_interrupts")
def test_ctrl_c_ends_what_comes_after_tune():
    with own_interrupts():
        _setup_signal_catching()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
