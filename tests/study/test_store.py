"""What a store remembers, wherever the study is kept."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput, StudyBusy, UnknownName
from ray_tl.search_space import RefitOptions
from ray_tl.study.database import DatabaseStudies
from ray_tl.study.records import Advice, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import Studies, find_study
from tests.examples import BASELINE, epoch, spec, store, trial

SECOND = TrialConfig(backbone="tiny_cnn", method="mcc")
ADVICE = tuple(Advice(params={"method": name}, reason="a reason") for name in ("coral", "mcc"))
SPACE_OF_METHODS = {"backbone": "tiny_cnn", "method": {"choice": ["source_only", "coral", "mcc"]}}


def optuna_study(opened: StudyStore) -> optuna.Study:
    """What optuna-dashboard would show."""
    storage = optuna.storages.RDBStorage(str(opened.backend.engine.url), {"pool": opened.backend.engine.pool})
    return optuna.load_study(study_name="office", storage=storage)


# creating and finding


def test_study_comes_back_as_it_was_created(studies):
    created = store(studies)
    assert StudyStore(studies.backend("office")).spec == created.spec == spec()


def test_study_can_not_be_created_twice(studies):
    store(studies)
    with pytest.raises(InvalidInput, match=r"'office' exists already.*--resume office"):
        store(studies)


def test_unknown_study_names_the_nearest(studies):
    store(studies)
    with pytest.raises(UnknownName, match=r"study='ofice' is not in .*did you mean 'office'\?"):
        find_study(studies, "ofice")
    assert find_study(studies, "office").folder == studies.root / "office"


def test_studies_are_listed_newest_first(studies):
    for name in ("old", "middle", "new"):
        StudyStore.create(studies.backend(name), spec(name=name))
    assert studies.names() == ["new", "middle", "old"]


def test_where_nothing_was_kept_there_are_no_studies(studies):
    assert studies.names() == []
    with pytest.raises(UnknownName, match="study='office' is not in"):
        find_study(studies, "office")


# what the system refuses


# asking


def test_what_is_advised_comes_after_the_prepared_and_counts_for_the_sampler(studies):
    opened = advised_store(studies)
    asked = [opened.ask() for _ in range(4)]
    assert [trial.config.method.name for trial in asked[:3]] == ["source_only", "coral", "mcc"]
    assert [trial.is_advised for trial in asked] == [False, True, True, False]
    assert [trial.is_advised for trial in opened.trials()] == [False, True, True, False]
    assert [trial.params for trial in optuna_study(opened).trials][:3] == [{}, {"method": "coral"}, {"method": "mcc"}]


@pytest.mark.parametrize("point", ["ray_tl.study.sampling.StudySampler.draw", "ray_tl.study.statements.insert_trial"])
def test_what_is_advised_is_asked_once_even_if_a_search_dies_on_the_way(studies, monkeypatch, point):
    opened = advised_store(studies)
    opened.ask()
    with monkeypatch.context() as patch:
        patch.setattr(point, killed)
        with pytest.raises(KeyboardInterrupt):
            opened.ask()
    again = StudyStore(opened.backend)
    assert again.reconcile() == opened.trials()
    assert [again.ask().config.method.name for _ in range(2)] == ["coral", "mcc"]
    assert len(optuna_study(opened).trials) == 3


def advised_store(studies: Studies) -> StudyStore:
    changes = {"advice": ADVICE, "trees": SPACE_OF_METHODS}
    return StudyStore.create(studies.backend("office"), spec().model_copy(update=changes))


def killed(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_prepared_configurations_come_first_and_each_once(studies):
    opened = store(studies, first=(BASELINE, SECOND))
    asked = [opened.ask() for _ in range(4)]
    assert [record.config for record in asked[:2]] == [BASELINE, SECOND]
    assert [record.is_baseline for record in asked] == [True, False, False, False]
    assert [record.number for record in asked] == [0, 1, 2, 3]
    assert len({record.config.optimizer.params["lr"] for record in asked[2:]}) == 2


def test_prepared_configurations_are_not_asked_again_after_opening_anew(studies):
    store(studies, first=(BASELINE, SECOND)).ask()
    opened = StudyStore(studies.backend("office"))
    assert opened.ask().config == SECOND
    assert opened.ask().config.optimizer.params != {}


def test_asked_trials_are_stored_as_running(studies):
    opened = store(studies)
    asked = [opened.ask(), opened.ask()]
    assert StudyStore(studies.backend("office")).trials() == asked
    assert {record.state for record in asked} == {TrialState.RUNNING}


def test_reopened_study_does_not_draw_the_numbers_of_its_beginning_again(studies):
    opened = store(studies, first=(), num_trials=12)
    before = [opened.ask().config.optimizer.params["lr"] for _ in range(4)]
    reopened = StudyStore(studies.backend("office"))
    after = [reopened.ask().config.optimizer.params["lr"] for _ in range(4)]
    assert len({*before, *after}) == 8


def test_equal_seeds_draw_equal_numbers_in_two_studies(studies):
    one, other = (StudyStore.create(studies.backend(name), spec(name=name, first=(), seed=2**32 + 3)) for name in "ab")
    assert [one.ask().config for _ in range(3)] == [other.ask().config for _ in range(3)]


# epochs


def test_epoch_is_stored_once_however_often_it_is_reported(studies):
    opened = store(studies)
    opened.ask()
    opened.add_epoch(0, epoch(1, 0.25), num_workers=3)
    opened.add_epoch(0, epoch(1, 0.75), num_workers=3)
    record = StudyStore(studies.backend("office")).trial(0)
    assert record.epochs == [epoch(1, 0.25)]
    assert record.cost_s == 6.0
    assert record.checkpoint == "checkpoints/0000.pt"


def test_epochs_stay_in_order_beyond_the_ninth(studies):
    opened = store(studies)
    opened.ask()
    for number in range(1, 12):
        opened.add_epoch(0, epoch(number), 1)
    assert [each.epoch for each in opened.trial(0).epochs] == list(range(1, 12))


def test_epoch_of_a_finished_trial_is_not_added(studies):
    opened = store(studies)
    opened.ask()
    opened.add_epoch(0, epoch(1), 1)
    opened.finish(0, TrialState.PRUNED)
    opened.add_epoch(0, epoch(2), 1)
    assert opened.trial(0).epochs == [epoch(1)]


def test_trial_that_is_not_there_is_unknown(studies):
    with pytest.raises(UnknownName, match="trial=3 is not in study 'office'; it has 0 trials"):
        store(studies).trial(3)


# states


@pytest.mark.parametrize(
    ("state", "optuna_state", "value"),
    [
        ("complete", "COMPLETE", 0.75),
        ("pruned", "PRUNED", 0.75),
        ("failed", "FAIL", None),
        ("infeasible", "PRUNED", 0.75),
    ],
)
def test_state_is_what_optuna_calls_it(studies, state, optuna_state, value):
    opened = store(studies)
    opened.ask()
    opened.add_epoch(0, epoch(1, 0.25), 1)
    opened.add_epoch(0, epoch(2, 0.75), 1)
    opened.finish(0, TrialState(state), "why")
    (seen,) = optuna_study(opened).trials
    assert (seen.state.name, seen.value) == (optuna_state, value)
    assert seen.intermediate_values == {1: 0.25, 2: 0.75}
    assert (opened.trial(0).state, opened.trial(0).error) == (TrialState(state), "why")


def test_trial_out_of_memory_violates_a_constraint_and_no_other_does(studies):
    opened = store(studies)
    for state in (TrialState.INFEASIBLE, TrialState.FAILED):
        opened.finish(opened.ask().number, state)
    infeasible, failed = optuna_study(opened).trials
    assert infeasible.constraints == {"memory": 1.0}
    assert failed.constraints == {}


def test_finished_trial_keeps_its_state(studies):
    opened = store(studies)
    opened.ask()
    opened.add_epoch(0, epoch(1), 1)
    opened.finish(0, TrialState.COMPLETE)
    before = opened.trial(0)
    opened.finish(0, TrialState.FAILED, "late")
    opened.finish(0, TrialState.COMPLETE)
    assert opened.trial(0) == before
    assert before.state is TrialState.COMPLETE


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_trial_that_ends_before_its_first_epoch_failed(studies, state):
    opened = store(studies)
    opened.finish(opened.ask().number, state)
    assert opened.trial(0).state is TrialState.FAILED
    assert opened.trial(0).error == "it ended before its first epoch."


def test_full_fidelity_needs_every_epoch_and_the_state_complete():
    assert trial(0, objectives=[0.1, 0.2]).at_full_fidelity
    assert not trial(0, objectives=[0.1, 0.2], config=BASELINE.model_copy(update={"epochs": 3})).at_full_fidelity
    assert not trial(0, TrialState.PRUNED, [0.1, 0.2]).at_full_fidelity
    assert trial(0, epochs=[epoch(9)], config=BASELINE).at_full_fidelity


# going on


def test_running_trial_comes_back_with_its_epochs(studies):
    opened = store(studies)
    for number in range(3):
        opened.ask()
        opened.add_epoch(number, epoch(1, number / 4), 1)
    opened.finish(1, TrialState.COMPLETE)
    left = StudyStore(studies.backend("office")).reconcile()
    assert [(record.number, record.epochs) for record in left] == [(0, [epoch(1, 0.0)]), (2, [epoch(1, 0.5)])]
    assert left[0].is_baseline


def test_trial_killed_before_it_had_a_configuration_is_closed_and_not_counted(studies):
    opened = store(studies)
    optuna_study(opened).ask()
    assert opened.reconcile() == []
    assert opened.num_asked() == 0
    assert [seen.state.name for seen in optuna_study(opened).trials] == ["FAIL"]


def test_trial_that_an_older_version_left_waiting_is_closed_and_what_it_was_for_is_asked(studies):
    opened = advised_store(studies)
    opened.ask()
    optuna_study(opened).enqueue_trial({"method": "coral"}, {"advised": 0})
    assert [trial.number for trial in opened.reconcile()] == [0]
    asked = opened.ask()
    assert (asked.number, asked.config.method.name, asked.is_advised) == (2, "coral", True)
    assert [seen.state.name for seen in optuna_study(opened).trials] == ["RUNNING", "FAIL", "RUNNING"]


def test_baseline_killed_before_it_had_a_configuration_is_asked_again(studies):
    opened = store(studies)
    half = optuna_study(opened).ask()
    half.set_user_attr("first", 0)
    opened.reconcile()
    assert opened.ask().is_baseline


def test_study_is_busy_while_another_process_holds_it(studies):
    opened = store(studies)
    code = "with store.exclusive():\n    print('held', flush=True)\n    input()"
    with python(studies, code) as other:
        assert other.stdout.readline() == "held\n"
        assert opened.is_searched()
        with pytest.raises(StudyBusy, match=f"process {other.pid};"), opened.exclusive():
            pass
        other.communicate("go\n")
    assert not opened.is_searched()
    with opened.exclusive():
        assert opened.is_searched()


def test_process_killed_while_it_writes_epochs_leaves_a_whole_study(studies):
    opened = store(studies)
    code = "store.ask()\nfor n in range(1, 9999):\n    store.add_epoch(0, epoch(n, n / 8), 1)\n    print(n, flush=True)"
    with python(studies, code) as other:
        written = [int(other.stdout.readline()) for _ in range(25)]
        other.send_signal(signal.SIGKILL)
    epochs = StudyStore(studies.backend("office")).reconcile()[0].epochs
    assert len(epochs) >= len(written)
    assert epochs == [epoch(number, number / 8) for number in range(1, len(epochs) + 1)]
    opened.add_epoch(0, epoch(len(epochs) + 1), 1)
    assert len(opened.trial(0).epochs) == len(epochs) + 1


def test_number_of_trials_can_change(studies):
    store(studies).update_search(num_trials=40, time_budget_s=60)
    search = StudyStore(studies.backend("office")).spec.search
    assert search == spec(num_trials=40, time_budget_s=60).search


def test_what_would_make_trials_incomparable_can_not_change(studies):
    opened = store(studies)
    with pytest.raises(InvalidInput, match="epochs, seed can't change in a study that has begun"):
        opened.update_search(num_trials=5, seed=1, epochs=3)
    assert StudyStore(studies.backend("office")).spec == spec()


@pytest.mark.parametrize("setting", [{"num_trials": 0}, {"num_trials": "many"}, {"time_budget_s": -1}])
def test_setting_that_breaks_its_rule_is_refused(studies, setting):
    with pytest.raises(InvalidInput, match=next(iter(setting))):
        store(studies).update_search(**setting)
    assert StudyStore(studies.backend("office")).spec == spec()


# small files


def test_what_is_kept_as_json_comes_back_and_is_replaced_whole(studies):
    opened = store(studies)
    assert opened.read_json("champion.json") is None
    opened.write_json("champion.json", {"trial": 3, "reason": "best"})
    opened.write_json("champion.json", {"trial": 1})
    assert StudyStore(opened.backend).read_json("champion.json") == {"trial": 1}


def python(studies: Studies, code: str) -> subprocess.Popen[str]:
    """Another process that has opened the study as `store`."""
    opening = "import sys\nfrom pathlib import Path\nfrom ray_tl.study.store import StudyStore\n"
    opening += "from ray_tl.study.studies import studies_at\nfrom tests.examples import epoch\n"
    opening += "store = StudyStore(studies_at(Path(sys.argv[1]), sys.argv[2]).backend('office'))\n"
    address = studies.address.url.render_as_string(hide_password=False) if isinstance(studies, DatabaseStudies) else ""
    arguments = [sys.executable, "-c", opening + code, str(studies.root), address]
    root = Path(__file__).parents[2]
    return subprocess.Popen(arguments, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_older_study_goes_on_with_epochs_of_one_pass(studies):
    recorded = store(studies).spec.model_dump(mode="json")
    del recorded["search"]["min_steps"]
    studies.backend("office").write_file("study.json", json.dumps(recorded).encode())
    assert StudyStore(studies.backend("office")).ask().config.min_steps is None


def test_a_study_gives_its_trials_the_least_number_of_steps_that_it_was_begun_with(studies):
    opened = store(studies, first=(), min_steps=300)
    assert StudyStore(opened.backend).ask().config.min_steps == 300


# refits


def refitted(opened: StudyStore) -> int:
    """A finished refit of trial 0; gives its number."""
    opened.ask()
    opened.add_epoch(0, epoch(9), 1)
    opened.finish(0, TrialState.COMPLETE)
    refit = opened.begin_refit(0, BASELINE.model_copy(update={"seed": 1}))
    opened.add_epoch(refit.number, epoch(9, 0.75), 1)
    opened.finish(refit.number, TrialState.COMPLETE)
    return refit.number


def test_a_refit_is_a_trial_that_says_what_it_is_a_refit_of(studies):
    opened = store(studies)
    number = refitted(opened)
    record = StudyStore(opened.backend).trial(number)
    assert (record.state, record.refit_of, record.config.seed) == (TrialState.COMPLETE, 0, 1)
    assert record.at_full_fidelity
    assert not record.is_baseline


def test_a_refit_does_not_count_against_the_number_of_trials(studies):
    opened = store(studies)
    refitted(opened)
    assert opened.num_asked() == 1
    assert opened.ask().number == 2


def test_optuna_learns_nothing_of_a_refit(studies):
    opened = store(studies)
    number = refitted(opened)
    seen = optuna_study(opened).trials[number]
    assert (seen.state, seen.value, seen.params) == (optuna.trial.TrialState.FAIL, None, {})
    assert optuna_study(opened).best_trial.number == 0


def test_an_interrupted_refit_is_no_trial_that_the_search_goes_on_with(studies):
    opened = store(studies)
    refitted(opened)
    waiting = opened.begin_refit(0, BASELINE, combines=(1,))
    assert StudyStore(opened.backend).reconcile() == []
    assert StudyStore(opened.backend).trial(waiting.number) == waiting
    assert (waiting.state, waiting.combines) == (TrialState.RUNNING, (1,))


def test_an_older_study_trains_no_champion_again(studies):
    recorded = store(studies).spec.model_dump(mode="json")
    del recorded["search"]["refit"]
    studies.backend("office").write_file("study.json", json.dumps(recorded).encode())
    assert StudyStore(studies.backend("office")).spec.search.refit is None


def test_a_study_may_go_on_without_a_refit(studies):
    opened = store(studies)
    opened.update_search(refit=False)
    assert StudyStore(opened.backend).spec.search.refit is None


def test_refits_can_be_asked_for_again(studies):
    opened = store(studies)
    opened.update_search(refit=False)
    opened.update_search(refit=True)
    assert StudyStore(opened.backend).spec.search.refit == RefitOptions()
