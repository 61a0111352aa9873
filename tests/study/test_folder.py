"""A study in a folder: its files, what may become of them, and what the system refuses."""

import fcntl
import os
import sqlite3
from contextlib import closing

import pytest

from ray_tl.errors import BrokenStudy, InvalidInput, StorageFailed, StudyBusy, UnknownName
from ray_tl.study.folder import FolderBackend
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import studies_at
from tests.examples import epoch, spec, store


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", "a b", "ä", "a\n", "x" * 65])
def test_name_that_is_no_file_name_everywhere_is_refused(tmp_path, name):
    with pytest.raises(InvalidInput, match=r"study=.* must start with a letter or digit"):
        StudyStore.create(tmp_path / "study", spec(name=name))
    assert list(tmp_path.iterdir()) == []


def test_no_studies_where_there_is_no_folder(tmp_path):
    assert studies_at(tmp_path / "none").names() == []


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
    assert set(studies_at(tmp_path).names()) >= {"office"}


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


def test_seconds_run_from_creation_to_the_last_change(tmp_path):
    opened = store(tmp_path)
    created = 1767323045  # 2026-01-02T03:04:05Z
    os.utime(tmp_path / "office" / "study.db", (created + 90, created + 90))
    assert opened.seconds() == 90.0


def test_command_that_goes_on_with_a_study_names_a_home_that_is_not_the_usual_one(tmp_path, monkeypatch):
    created = StudyStore.create(tmp_path / "my home" / "studies" / "office", spec())
    assert created.resume_command == f"ray-tl search --resume office --home '{tmp_path}/my home'"
    monkeypatch.setenv("RAY_TL_HOME", str(tmp_path / "my home"))
    assert created.resume_command == "ray-tl search --resume office"
