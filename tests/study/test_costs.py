"""What a store pays for a trial does not grow with the number of trials, and who only reads sees all the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import sqlalchemy as sql

from ray_tl.study.records import TrialState
from ray_tl.study.store import StudyStore
from tests.examples import epoch, store


@contextmanager
def statements_of(opened: StudyStore) -> Iterator[list[str]]:
    """The statements that reach the database in the block."""
    seen: list[str] = []

    def notice(connection, cursor, statement, *rest):
        seen.append(statement)

    sql.event.listen(opened.backend.engine, "before_cursor_execute", notice)
    yield seen
    sql.event.remove(opened.backend.engine, "before_cursor_execute", notice)


def whole_trial(opened: StudyStore) -> None:
    number = opened.ask().number
    for index in (1, 2):
        opened.add_epoch(number, epoch(index, number / 7 % 1), 1)
        opened.trial(number)
    opened.finish(number, TrialState.COMPLETE)
    opened.num_asked()


def test_a_search_sends_as_many_statements_for_its_fortieth_trial_as_for_its_tenth(tmp_path):
    opened, sent = store(tmp_path, num_trials=60), {}
    with opened.exclusive():
        for number in range(1, 41):
            with statements_of(opened) as sent[number]:
                whole_trial(opened)
    assert len(sent[40]) == len(sent[10])
    assert not any("SELECT" in statement and "trial_user_attributes" in statement for statement in sent[40])


def test_a_trial_that_has_ended_is_parsed_once(tmp_path):
    opened = store(tmp_path)
    whole_trial(opened)
    opened.ask()
    read = StudyStore(opened.folder)
    (ended, running), (ended_again, _) = read.trials(), read.trials()
    assert ended_again is ended
    assert (ended.state, running.state) == (TrialState.COMPLETE, TrialState.RUNNING)


def test_who_looks_sees_what_is_written_meanwhile_with_one_statement(tmp_path):
    opened, read = store(tmp_path), StudyStore(tmp_path / "office")
    with opened.exclusive():
        opened.ask()
        assert read.num_asked() == 1
        opened.add_epoch(0, epoch(1), 1)
        assert read.trial(0).epochs == [epoch(1)]
        opened.finish(0, TrialState.COMPLETE)
        with statements_of(read) as sent:
            assert read.trials() == opened.trials()
    assert len(sent) == 1


def test_what_was_written_before_the_study_is_held_is_known(tmp_path):
    opened, other = store(tmp_path), StudyStore(tmp_path / "office")
    other.ask()
    with opened.exclusive():
        assert opened.num_asked() == 1
        assert opened.ask().number == 1


def test_threads_that_ask_at_once_get_different_trials(tmp_path):
    opened = store(tmp_path)
    with opened.exclusive(), ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda _: opened.ask().number, range(12)))
    assert sorted(asked) == list(range(12))


@pytest.mark.parametrize("table", ["trials", "trial_params", "trial_user_attributes"])
def test_a_trial_whose_writing_fails_half_way_is_not_there(tmp_path, table):
    opened = store(tmp_path, first=())

    def refuse(connection, cursor, statement, *rest):
        if statement.startswith(f"INSERT INTO {table} "):
            raise KeyboardInterrupt

    with opened.exclusive():
        sql.event.listen(opened.backend.engine, "before_cursor_execute", refuse)
        with pytest.raises(KeyboardInterrupt):
            opened.ask()
        sql.event.remove(opened.backend.engine, "before_cursor_execute", refuse)
        assert (opened.trials(), opened.num_asked()) == ([], 0)
        assert opened.ask().number == 0
    assert [trial.number for trial in StudyStore(tmp_path / "office").trials()] == [0]
