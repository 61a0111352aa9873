"""A study in a PostgreSQL database: what the server refuses, who holds a study, and that no password is shown."""

import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
import sqlalchemy as sql

from ray_tl.errors import InvalidInput, RayTLError, StorageFailed, StudyBusy, UnknownName
from ray_tl.study.address import Address
from ray_tl.study.records import TrialState
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import find_study, studies_at
from tests.examples import epoch, spec, store
from tests.postgres import PASSWORD, QUOTED, Server, free_port
from tests.study.test_store import python


@pytest.fixture
def studies(database, tmp_path):
    return studies_at(tmp_path, database)


# addresses


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{PASSWORD}@host/lab",
        f"postgresql://me:{QUOTED}@host:54x/lab",
        f"mysql://me:{QUOTED}@host/lab",
        f"{PASSWORD}",
        f"sqlite:///{PASSWORD}",
        f"postgresql+{PASSWORD}://host",
    ],
)
def test_what_is_no_address_is_refused_without_being_repeated(tmp_path, text):
    with pytest.raises(InvalidInput, match=r"^storage.*postgresql://user@host:5432/database") as refused:
        studies_at(tmp_path, text)
    assert not {PASSWORD, QUOTED, "w:rd", "w%3Ard"} & set(re.split(r"[\s'@/,;]", str(refused.value)))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:secret@host:1234/lab", "postgresql://me:***@host:1234/lab"),
        ("postgres://me@host:1234/lab?password=secret", "postgresql://me@host:1234/lab"),
    ],
)
def test_an_address_is_shown_without_its_password(given, shown):
    address = Address.parsed(given)
    assert (str(address), repr(address)) == (shown, shown)
    assert address.hidden_in("FATAL: secret is wrong") == "FATAL: *** is wrong"


def test_a_missing_driver_is_said_with_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        InvalidInput, match=r"psycopg is not installed; get it with: pip install 'ray-tl\[postgresql\]'"
    ):
        studies_at(tmp_path, "postgresql://me@host/lab")


# a server that does not answer, or refuses


def refusal(tmp_path, address: str) -> str:
    with pytest.raises(StorageFailed) as refused:
        studies_at(tmp_path, address).names()
    chain = f"{refused.value} {refused.value.__cause__}"
    assert not [part for part in (PASSWORD, QUOTED) if part in chain]
    return str(refused.value)


def test_a_wrong_password_is_said(tmp_path, postgres):
    said = refusal(tmp_path, postgres.address("postgres", password="wr0ng"))
    assert 'password authentication failed for user "tester"; check user and password' in said
    assert "wr0ng" not in said


def test_a_database_that_is_not_there_is_said(tmp_path, postgres):
    assert 'database "nowhere" does not exist; make the database (createdb)' in refusal(
        tmp_path, postgres.address("nowhere")
    )


def test_a_server_that_is_not_there_is_said(tmp_path):
    said = refusal(tmp_path, f"postgresql://me:{QUOTED}@127.0.0.1:{free_port()}/lab")
    assert said.startswith("postgresql://me:***@127.0.0.1:")
    assert "check the address, and whether the server runs" in said


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_tl.study.database.CONNECT_TIMEOUT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "timeout" in refusal(tmp_path, f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/lab")


def test_a_database_that_may_only_be_read_is_read(studies, postgres, tmp_path):
    opened = store(studies)
    opened.ask()
    name = opened.backend.engine.url.database
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    read = StudyStore.open_for_reading(studies_at(tmp_path, postgres.address(name)).backend("office"))
    assert len(read.trials()) == 1
    with pytest.raises(StorageFailed, match="read-only transaction; it may only be read"):
        read.ask()


# what else is in the database


def test_studies_of_others_are_not_listed_and_their_names_are_taken(studies, database):
    store(studies)
    address = studies.address.url.render_as_string(hide_password=False)
    optuna.create_study(study_name="theirs", storage=address)
    assert studies.names() == ["office"]
    with pytest.raises(UnknownName, match="study='theirs' is not in postgresql"):
        find_study(studies, "theirs")
    with pytest.raises(InvalidInput, match="study='theirs' exists already in postgresql"):
        StudyStore.create(studies.backend("theirs"), spec(name="theirs"))


def test_studies_that_begin_at_once_in_an_empty_database_all_begin(tmp_path, database):
    def begin(name: str) -> StudyStore:
        return StudyStore.create(studies_at(tmp_path, database).backend(name), spec(name=name))

    with ThreadPoolExecutor(4) as pool:
        begun = list(pool.map(begin, "abcd"))
    assert [opened.spec.name for opened in begun] == list("abcd")
    assert sorted(begun[0].backend._studies.names()) == list("abcd")


def test_two_studies_do_not_see_each_others_trials(studies):
    one, other = (StudyStore.create(studies.backend(name), spec(name=name)) for name in ("one", "other"))
    for opened in (one, other, one):
        opened.add_epoch(opened.ask().number, epoch(1), 1)
    assert [len(StudyStore(opened.backend).trials()) for opened in (one, other)] == [2, 1]
    with one.exclusive():
        assert (one.is_searched(), other.is_searched()) == (True, False)


def test_command_that_goes_on_with_a_study_names_its_database_without_a_password(studies, monkeypatch):
    created = StudyStore.create(studies.backend("office"), spec())
    stated = created.resume_command.split(" --storage ")[1]
    assert stated.strip("'") == str(studies.address)
    assert PASSWORD not in created.resume_command
    monkeypatch.setenv("RAY_TL_STORAGE", str(studies.address))
    assert "--storage" not in created.resume_command


def test_nothing_of_a_study_is_in_its_folder(studies, tmp_path):
    opened = store(studies)
    opened.write_json("champion.json", {"trial": 0})
    assert list(tmp_path.iterdir()) == []


def test_tables_of_another_optuna_are_not_written_to(studies):
    store(studies)
    with studies.engine.begin() as connection:
        connection.execute(sql.text("UPDATE alembic_version SET version_num = 'v1.3.0.a'"))
    with pytest.raises(InvalidInput, match=r"has tables of another version of Optuna: .*optuna storage upgrade"):
        StudyStore.create(studies.backend("other"), spec(name="other"))
    assert studies.names() == ["office"]


# who holds a study


def test_a_study_is_free_once_its_searcher_is_killed(studies):
    opened = store(studies)
    with python(studies, "with store.exclusive():\n    print('held', flush=True)\n    input()") as other:
        other.stdout.readline()
        with pytest.raises(StudyBusy, match=rf"searched by ray-tl on .*, process {other.pid};"), opened.exclusive():
            pass
        other.send_signal(signal.SIGKILL)
    wait_until_free(opened)
    with opened.exclusive():
        assert opened.is_searched()


def wait_until_free(opened: StudyStore) -> None:
    """The server notices a moment later; a minute at most."""
    lock = sql.func.pg_advisory_lock(0x7261795F, opened._study_id)
    with opened.backend.engine.connect() as connection:
        connection.execute(sql.text("SET lock_timeout = '60s'"))
        connection.execute(sql.select(lock))
        connection.execute(sql.select(sql.func.pg_advisory_unlock_all()))


def test_who_has_lost_the_lock_writes_nothing_more(studies, postgres):
    opened, other = store(studies), StudyStore(studies.backend("office"))

    def search() -> None:
        with opened.exclusive():
            opened.ask()
            postgres.execute(END_ALL_OTHERS, opened.backend.engine.url.database)
            with other.exclusive():
                opened.ask()

    with pytest.raises(StorageFailed, match="the connection was lost: once the server runs, go on with --resume"):
        search()
    assert [trial.number for trial in other.trials()] == [0]


END_ALL_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def test_a_search_goes_on_after_the_server_was_killed(tmp_path, own_server):
    opened = store(studies_at(tmp_path, own_server.address("postgres")))

    def search() -> None:
        with opened.exclusive():
            opened.add_epoch(opened.ask().number, epoch(1), 1)
            own_server.stop("immediate")
            opened.add_epoch(0, epoch(2), 1)

    with pytest.raises(StorageFailed):
        search()
    own_server.start()
    with opened.exclusive():
        assert [trial.epochs for trial in opened.reconcile()] == [[epoch(1)]]
        opened.add_epoch(0, epoch(2), 1)
        opened.finish(0, TrialState.COMPLETE)
    assert opened.trial(0).epochs == [epoch(1), epoch(2)]


@pytest.fixture
def own_server(postgres):
    """One that may be killed."""
    server = Server.started()
    yield server
    server.remove()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_killed_while_it_asks_leaves_whole_trials(studies, signal_number):
    opened = store(studies, num_trials=50)
    code = "with store.exclusive():\n    for n in range(99):\n        print(store.ask().number, flush=True)"
    with python(studies, code) as other:
        asked = [int(other.stdout.readline()) for _ in range(12)]
        other.send_signal(signal_number)
    wait_until_free(opened)
    numbers = [trial.number for trial in opened.reconcile()]
    assert numbers[: len(asked)] == asked
    assert numbers == list(range(len(numbers)))


def test_an_error_of_the_database_in_a_search_shows_no_password(studies):
    opened = store(studies)
    with pytest.raises(RayTLError) as failed, opened.exclusive(), opened.backend.using():
        opened._held.execute(sql.text("SELECT * FROM nothing"))
    assert PASSWORD not in f"{failed.value!r} {failed.value}"
    assert str(failed.value).startswith("postgresql://tester:***@")
