import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from ray_tl.config import TrialConfig
from ray_tl.errors import BrokenStudy, InvalidInput, StorageFailed, StudyBusy, UnknownName
from ray_tl.search_space import RefitOptions
from ray_tl.study.folder import FolderBackend
from ray_tl.study.records import Advice, TrialState
from ray_tl.study.store import StudyStore, find_study, list_studies
from tests.examples import BASELINE, epoch, spec, store, trial

SECOND = TrialConfig(backbone="tiny_cnn", method="mcc")
ADVICE = tuple(Advice(params={"method": name}, reason="a reason") for name in ("coral", "mcc"))
SPACE_OF_METHODS = {"backbone": "tiny_cnn", "method": {"choice": ["source_only", "coral", "mcc"]}}


def optuna_view(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """What optuna-dashboard would show."""
    return optuna.load_study(study_name="office", storage=f"sqlite:///{folder / 'study.db'}").trials


# creating and finding


def test_study_comes_back_as_it_was_created(tmp_path):
    created = store(tmp_path)
    assert StudyStore(tmp_path / "office").spec == created.spec == spec()


def test_study_can_not_be_created_twice(tmp_path):
    store(tmp_path)
    with pytest.raises(InvalidInput, match=r"'office' exists already.*--resume office"):
        store(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", "a b", "ä", "a\n", "x" * 65])
def test_name_that_is_no_file_name_everywhere_is_refused(tmp_path, name):
    with pytest.raises(InvalidInput, match=r"study=.* must start with a letter or digit"):
        StudyStore.create(tmp_path / "study", spec(name=name))
    assert list(tmp_path.iterdir()) == []


def test_unknown_study_names_the_nearest(tmp_path):
    store(tmp_path)
    with pytest.raises(UnknownName, match=r"study='ofice' is not in .*did you mean 'office'\?"):
        find_study(tmp_path, "ofice")
    assert find_study(tmp_path, "office") == tmp_path / "office"


def test_studies_are_listed_newest_first(tmp_path):
    for name, changed in [("old", 1000), ("new", 3000), ("middle", 2000)]:
        StudyStore.create(tmp_path / name, spec(name=name))
        os.utime(tmp_path / name / "study.json", (changed, changed))
    assert list_studies(tmp_path) == ["new", "middle", "old"]


def test_no_studies_where_there_is_no_folder(tmp_path):
    assert list_studies(tmp_path / "none") == []


def test_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(UnknownName, match=r"holds no study; its study\.json is missing"):
        StudyStore(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"format": 2}'])
def test_study_of_another_format_is_refused_with_a_message(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"study\.json"):
        StudyStore(tmp_path)


# what is broken

BREAKS = {
    "is cut": ("study.json", lambda content: content[:100], "study.json: Invalid JSON"),
    "is garbage": ("study.json", lambda content: b"\xff\0" * 50, "study.json: Invalid JSON"),
    "is newer": (
        "study.json",
        lambda content: content.replace(b'"format": 1', b'"format": 2'),
        "format=2 is of another",
    ),
    "is a list": ("study.json", lambda content: b"[]", "study.json"),
    "is of another study": ("study.json", lambda content: content.replace(b"office", b"house"), "is not what was"),
    "database is cut": ("study.db", lambda content: content[:5000], "study.db is damaged (database disk image is malf"),
    "database is garbage": ("study.db", lambda content: b"garbage" * 999, "study.db is damaged (file is not a data"),
    "database is empty": ("study.db", lambda content: b"", "study.db is damaged (no such table"),
}


@pytest.mark.parametrize("case", BREAKS)
@pytest.mark.parametrize("opened", [StudyStore, StudyStore.open_for_reading])
def test_broken_study_is_one_message_that_says_what_to_do(tmp_path, case, opened):
    store(tmp_path)
    name, change, said = BREAKS[case]
    path = tmp_path / "office" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BrokenStudy) as caught:
        opened(tmp_path / "office")
    assert said in str(caught.value)
    assert str(caught.value).endswith(
        (f"remove {tmp_path}/office and search again.", "with the version that wrote it.")
    )


def test_study_whose_database_is_missing_is_broken_and_gets_no_empty_one(tmp_path):
    store(tmp_path)
    (tmp_path / "office" / "study.db").unlink()
    with pytest.raises(BrokenStudy, match=r"study\.db is missing; restore it from a copy"):
        StudyStore(tmp_path / "office")
    assert os.listdir(tmp_path / "office") == ["study.json"]


def test_record_that_was_changed_by_hand_is_a_broken_study(tmp_path):
    opened = store(tmp_path)
    opened.ask()
    with sqlite3.connect(tmp_path / "office" / "study.db") as database:
        database.execute("UPDATE trial_user_attributes SET value_json = '{}' WHERE key = 'config'")
    with pytest.raises(BrokenStudy, match=r"the database of .*office is not what was written \(ValidationError"):
        StudyStore(tmp_path / "office").trials()


@pytest.mark.parametrize("text", ['{"trial": 3, "reas', "[]", "\0"])
def test_small_file_that_was_cut_says_how_to_get_it_again(tmp_path, text):
    opened = store(tmp_path)
    (tmp_path / "office" / "champion.json").write_text(text)
    with pytest.raises(BrokenStudy, match=r"champion\.json is not what was written .*--resume office"):
        opened.read_json("champion.json")


def test_link_to_nowhere_hides_no_other_study(tmp_path):
    store(tmp_path)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "study.json").symlink_to(tmp_path / "nowhere")
    assert set(list_studies(tmp_path)) >= {"office"}


# what the system refuses


def test_study_that_may_only_be_read_is_read_as_it_is(tmp_path, only_readable):
    opened = store(tmp_path)
    opened.add_epoch(opened.ask().number, epoch(1), 1)
    only_readable(tmp_path / "office")
    read = StudyStore.open_for_reading(tmp_path / "office")
    assert (read.trials(), read.is_searched()) == (opened.trials(), False)
    with pytest.raises(StorageFailed, match=r"study\.db: attempt to write a readonly database: .*permissions"):
        read.ask()


def test_looking_makes_no_file(tmp_path):
    store(tmp_path)
    before = sorted(os.listdir(tmp_path / "office"))
    read = StudyStore.open_for_reading(tmp_path / "office")
    assert (read.trials(), read.is_searched()) == ([], False)
    assert sorted(os.listdir(tmp_path / "office")) == before == ["study.db", "study.json"]


def test_search_is_seen_where_nothing_can_be_written(tmp_path, only_readable):
    opened = store(tmp_path)
    with opened.exclusive():
        only_readable(tmp_path / "office")
        assert StudyStore.open_for_reading(tmp_path / "office").is_searched()


@pytest.mark.parametrize("name", ["a b", "a?b#c", "a%20b", "ä"])
def test_folder_may_be_called_anything(tmp_path, name):
    opened = StudyStore.create(tmp_path / name / "office", spec())
    opened.ask()
    assert StudyStore(FolderBackend(tmp_path / name / "office", "ro")).trials() == opened.trials()


def test_database_that_another_process_locks_is_busy(tmp_path, monkeypatch):
    store(tmp_path)
    monkeypatch.setattr("ray_tl.study.folder.LOCK_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "office" / "study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyBusy, match="database is locked: another process is writing to it; wait for it"):
            StudyStore.open_for_reading(tmp_path / "office")


def test_full_disk_is_said_and_nothing_of_the_study_stays(full_disk):
    with pytest.raises(StorageFailed, match=r"office/study\.db: .*full.*: No space left on device; .*free some room"):
        store(full_disk)
    assert list(full_disk.iterdir()) == []


# asking


def test_what_is_advised_comes_after_the_prepared_and_counts_for_the_sampler(tmp_path):
    opened = advised_store(tmp_path)
    asked = [opened.ask() for _ in range(4)]
    assert [trial.config.method.name for trial in asked[:3]] == ["source_only", "coral", "mcc"]
    assert [trial.is_advised for trial in asked] == [False, True, True, False]
    assert [trial.is_advised for trial in opened.trials()] == [False, True, True, False]
    assert [trial.params for trial in optuna_view(opened.folder)][:3] == [{}, {"method": "coral"}, {"method": "mcc"}]


@pytest.mark.parametrize("point", ["ray_tl.study.sampling.StudySampler.draw", "ray_tl.study.statements.insert_trial"])
def test_what_is_advised_is_asked_once_even_if_a_search_dies_on_the_way(tmp_path, monkeypatch, point):
    opened = advised_store(tmp_path)
    opened.ask()
    with monkeypatch.context() as patch:
        patch.setattr(point, killed)
        with pytest.raises(KeyboardInterrupt):
            opened.ask()
    again = StudyStore(opened.folder)
    assert again.reconcile() == opened.trials()
    assert [again.ask().config.method.name for _ in range(2)] == ["coral", "mcc"]
    assert len(optuna_view(opened.folder)) == 3


def advised_store(root: Path) -> StudyStore:
    changes = {"advice": ADVICE, "trees": SPACE_OF_METHODS}
    return StudyStore.create(root / "office", spec().model_copy(update=changes))


def killed(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_prepared_configurations_come_first_and_each_once(tmp_path):
    opened = store(tmp_path, first=(BASELINE, SECOND))
    asked = [opened.ask() for _ in range(4)]
    assert [record.config for record in asked[:2]] == [BASELINE, SECOND]
    assert [record.is_baseline for record in asked] == [True, False, False, False]
    assert [record.number for record in asked] == [0, 1, 2, 3]
    assert len({record.config.optimizer.params["lr"] for record in asked[2:]}) == 2


def test_prepared_configurations_are_not_asked_again_after_opening_anew(tmp_path):
    store(tmp_path, first=(BASELINE, SECOND)).ask()
    opened = StudyStore(tmp_path / "office")
    assert opened.ask().config == SECOND
    assert opened.ask().config.optimizer.params != {}


def test_asked_trials_are_stored_as_running(tmp_path):
    opened = store(tmp_path)
    asked = [opened.ask(), opened.ask()]
    assert StudyStore(tmp_path / "office").trials() == asked
    assert {record.state for record in asked} == {TrialState.RUNNING}


def test_reopened_study_does_not_draw_the_numbers_of_its_beginning_again(tmp_path):
    opened = store(tmp_path, first=(), num_trials=12)
    before = [opened.ask().config.optimizer.params["lr"] for _ in range(4)]
    reopened = StudyStore(tmp_path / "office")
    after = [reopened.ask().config.optimizer.params["lr"] for _ in range(4)]
    assert len({*before, *after}) == 8


def test_equal_seeds_draw_equal_numbers_in_two_studies(tmp_path):
    one, other = (StudyStore.create(tmp_path / name, spec(name=name, first=(), seed=2**32 + 3)) for name in "ab")
    assert [one.ask().config for _ in range(3)] == [other.ask().config for _ in range(3)]


# epochs


def test_epoch_is_stored_once_however_often_it_is_reported(tmp_path):
    opened = store(tmp_path)
    opened.ask()
    opened.add_epoch(0, epoch(1, 0.25), num_workers=3)
    opened.add_epoch(0, epoch(1, 0.75), num_workers=3)
    record = StudyStore(tmp_path / "office").trial(0)
    assert record.epochs == [epoch(1, 0.25)]
    assert record.cost_s == 6.0
    assert record.checkpoint == "checkpoints/0000.pt"


def test_epochs_stay_in_order_beyond_the_ninth(tmp_path):
    opened = store(tmp_path)
    opened.ask()
    for number in range(1, 12):
        opened.add_epoch(0, epoch(number), 1)
    assert [each.epoch for each in opened.trial(0).epochs] == list(range(1, 12))


def test_epoch_of_a_finished_trial_is_not_added(tmp_path):
    opened = store(tmp_path)
    opened.ask()
    opened.add_epoch(0, epoch(1), 1)
    opened.finish(0, TrialState.PRUNED)
    opened.add_epoch(0, epoch(2), 1)
    assert opened.trial(0).epochs == [epoch(1)]


def test_trial_that_is_not_there_is_unknown(tmp_path):
    with pytest.raises(UnknownName, match="trial=3 is not in study 'office'; it has 0 trials"):
        store(tmp_path).trial(3)


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
def test_state_is_what_optuna_calls_it(tmp_path, state, optuna_state, value):
    opened = store(tmp_path)
    opened.ask()
    opened.add_epoch(0, epoch(1, 0.25), 1)
    opened.add_epoch(0, epoch(2, 0.75), 1)
    opened.finish(0, TrialState(state), "why")
    (seen,) = optuna_view(tmp_path / "office")
    assert (seen.state.name, seen.value) == (optuna_state, value)
    assert seen.intermediate_values == {1: 0.25, 2: 0.75}
    assert (opened.trial(0).state, opened.trial(0).error) == (TrialState(state), "why")


def test_trial_out_of_memory_violates_a_constraint_and_no_other_does(tmp_path):
    opened = store(tmp_path)
    for state in (TrialState.INFEASIBLE, TrialState.FAILED):
        opened.finish(opened.ask().number, state)
    infeasible, failed = optuna_view(tmp_path / "office")
    assert infeasible.constraints == {"memory": 1.0}
    assert failed.constraints == {}


def test_finished_trial_keeps_its_state(tmp_path):
    opened = store(tmp_path)
    opened.ask()
    opened.add_epoch(0, epoch(1), 1)
    opened.finish(0, TrialState.COMPLETE)
    before = opened.trial(0)
    opened.finish(0, TrialState.FAILED, "late")
    opened.finish(0, TrialState.COMPLETE)
    assert opened.trial(0) == before
    assert before.state is TrialState.COMPLETE


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_trial_that_ends_before_its_first_epoch_failed(tmp_path, state):
    opened = store(tmp_path)
    opened.finish(opened.ask().number, state)
    assert opened.trial(0).state is TrialState.FAILED
    assert opened.trial(0).error == "it ended before its first epoch."


def test_full_fidelity_needs_every_epoch_and_the_state_complete():
    assert trial(0, objectives=[0.1, 0.2]).at_full_fidelity
    assert not trial(0, objectives=[0.1, 0.2], config=BASELINE.model_copy(update={"epochs": 3})).at_full_fidelity
    assert not trial(0, TrialState.PRUNED, [0.1, 0.2]).at_full_fidelity
    assert trial(0, epochs=[epoch(9)], config=BASELINE).at_full_fidelity


# going on


def test_running_trial_comes_back_with_its_epochs(tmp_path):
    opened = store(tmp_path)
    for number in range(3):
        opened.ask()
        opened.add_epoch(number, epoch(1, number / 4), 1)
    opened.finish(1, TrialState.COMPLETE)
    left = StudyStore(tmp_path / "office").reconcile()
    assert [(record.number, record.epochs) for record in left] == [(0, [epoch(1, 0.0)]), (2, [epoch(1, 0.5)])]
    assert left[0].is_baseline


def test_trial_killed_before_it_had_a_configuration_is_closed_and_not_counted(tmp_path):
    opened = store(tmp_path)
    optuna.load_study(study_name="office", storage=f"sqlite:///{tmp_path}/office/study.db").ask()
    assert opened.reconcile() == []
    assert opened.num_asked() == 0
    assert [seen.state.name for seen in optuna_view(tmp_path / "office")] == ["FAIL"]


def test_baseline_killed_before_it_had_a_configuration_is_asked_again(tmp_path):
    opened = store(tmp_path)
    half = optuna.load_study(study_name="office", storage=f"sqlite:///{tmp_path}/office/study.db").ask()
    half.set_user_attr("first", 0)
    opened.reconcile()
    assert opened.ask().is_baseline


def test_study_is_busy_while_another_process_holds_it(tmp_path):
    opened = store(tmp_path)
    code = "with store.exclusive():\n    print('held', flush=True)\n    input()"
    with python(tmp_path / "office", code) as other:
        assert other.stdout.readline() == "held\n"
        assert opened.is_searched()
        with pytest.raises(StudyBusy, match=f"process {other.pid};"), opened.exclusive():
            pass
        other.communicate("go\n")
    assert not opened.is_searched()
    with opened.exclusive():
        assert opened.is_searched()


def test_two_that_look_do_not_see_each_other(tmp_path):
    opened = store(tmp_path)
    with open(tmp_path / "office" / "search.lock", "a+") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not opened.is_searched()


def test_looking_leaves_the_name_of_the_searcher(tmp_path):
    opened = store(tmp_path)
    with opened.exclusive():
        assert opened.is_searched()
        assert (tmp_path / "office" / "search.lock").read_text() == str(os.getpid())


def test_process_killed_while_it_writes_epochs_leaves_a_whole_study(tmp_path):
    opened = store(tmp_path)
    code = "store.ask()\nfor n in range(1, 9999):\n    store.add_epoch(0, epoch(n, n / 8), 1)\n    print(n, flush=True)"
    with python(tmp_path / "office", code) as other:
        written = [int(other.stdout.readline()) for _ in range(25)]
        other.send_signal(signal.SIGKILL)
    epochs = StudyStore(tmp_path / "office").reconcile()[0].epochs
    assert len(epochs) >= len(written)
    assert epochs == [epoch(number, number / 8) for number in range(1, len(epochs) + 1)]
    opened.add_epoch(0, epoch(len(epochs) + 1), 1)
    assert len(opened.trial(0).epochs) == len(epochs) + 1


def test_number_of_trials_can_change(tmp_path):
    store(tmp_path).update_search(num_trials=40, time_budget_s=60)
    search = StudyStore(tmp_path / "office").spec.search
    assert search == spec(num_trials=40, time_budget_s=60).search


def test_what_would_make_trials_incomparable_can_not_change(tmp_path):
    opened = store(tmp_path)
    with pytest.raises(InvalidInput, match="epochs, seed can't change in a study that has begun"):
        opened.update_search(num_trials=5, seed=1, epochs=3)
    assert StudyStore(tmp_path / "office").spec == spec()


@pytest.mark.parametrize("setting", [{"num_trials": 0}, {"num_trials": "many"}, {"time_budget_s": -1}])
def test_setting_that_breaks_its_rule_is_refused(tmp_path, setting):
    with pytest.raises(InvalidInput, match=next(iter(setting))):
        store(tmp_path).update_search(**setting)
    assert StudyStore(tmp_path / "office").spec == spec()


# small files


def test_json_file_comes_back_and_is_replaced_whole(tmp_path):
    opened = store(tmp_path)
    assert opened.read_json("champion.json") is None
    opened.write_json("champion.json", {"trial": 3, "reason": "best"})
    opened.write_json("champion.json", {"trial": 1})
    assert opened.read_json("champion.json") == {"trial": 1}
    assert sorted(path.name for path in (tmp_path / "office").iterdir()) == ["champion.json", "study.db", "study.json"]


def test_seconds_run_from_creation_to_the_last_change(tmp_path):
    opened = store(tmp_path)
    created = 1767323045  # 2026-01-02T03:04:05Z
    os.utime(tmp_path / "office" / "study.db", (created + 90, created + 90))
    assert opened.seconds() == 90.0


def python(folder: Path, code: str) -> subprocess.Popen[str]:
    """Another process that has opened the study as `store`."""
    opening = "import sys\nfrom pathlib import Path\nfrom ray_tl.study.store import StudyStore\n"
    opening += "from tests.examples import epoch\nstore = StudyStore(Path(sys.argv[1]))\n"
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", opening + code, str(folder)]
    return subprocess.Popen(arguments, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_older_study_goes_on_with_epochs_of_one_pass(tmp_path):
    recorded = store(tmp_path).spec.model_dump(mode="json")
    del recorded["search"]["min_steps"]
    (tmp_path / "office" / "study.json").write_text(json.dumps(recorded))
    assert StudyStore(tmp_path / "office").ask().config.min_steps is None


def test_a_study_gives_its_trials_the_least_number_of_steps_that_it_was_begun_with(tmp_path):
    opened = store(tmp_path, first=(), min_steps=300)
    assert StudyStore(opened.folder).ask().config.min_steps == 300


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


def test_a_refit_is_a_trial_that_says_what_it_is_a_refit_of(tmp_path):
    opened = store(tmp_path)
    number = refitted(opened)
    record = StudyStore(opened.folder).trial(number)
    assert (record.state, record.refit_of, record.config.seed) == (TrialState.COMPLETE, 0, 1)
    assert record.at_full_fidelity
    assert not record.is_baseline


def test_a_refit_does_not_count_against_the_number_of_trials(tmp_path):
    opened = store(tmp_path)
    refitted(opened)
    assert opened.num_asked() == 1
    assert opened.ask().number == 2


def test_optuna_learns_nothing_of_a_refit(tmp_path):
    opened = store(tmp_path)
    number = refitted(opened)
    seen = optuna_view(opened.folder)[number]
    assert (seen.state, seen.value, seen.params) == (optuna.trial.TrialState.FAIL, None, {})
    assert (
        optuna.load_study(study_name="office", storage=f"sqlite:///{opened.folder / 'study.db'}").best_trial.number == 0
    )


def test_an_interrupted_refit_is_no_trial_that_the_search_goes_on_with(tmp_path):
    opened = store(tmp_path)
    refitted(opened)
    waiting = opened.begin_refit(0, BASELINE, combines=(1,))
    assert StudyStore(opened.folder).reconcile() == []
    assert StudyStore(opened.folder).trial(waiting.number) == waiting
    assert (waiting.state, waiting.combines) == (TrialState.RUNNING, (1,))


def test_an_older_study_trains_no_champion_again(tmp_path):
    recorded = store(tmp_path).spec.model_dump(mode="json")
    del recorded["search"]["refit"]
    (tmp_path / "office" / "study.json").write_text(json.dumps(recorded))
    assert StudyStore(tmp_path / "office").spec.search.refit is None


def test_a_study_may_go_on_without_a_refit(tmp_path):
    opened = store(tmp_path)
    opened.update_search(refit=False)
    assert StudyStore(opened.folder).spec.search.refit is None


def test_refits_can_be_asked_for_again(tmp_path):
    opened = store(tmp_path)
    opened.update_search(refit=False)
    opened.update_search(refit=True)
    assert StudyStore(opened.folder).spec.search.refit == RefitOptions()
