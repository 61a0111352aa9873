"""A study in a PostgreSQL database that many machines reach; its checkpoints and evidence stay in a folder."""

import json
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC
from functools import cached_property
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from ray_tl.errors import BrokenStudy, InvalidInput, StudyBusy
from ray_tl.home import home_option, storage_address
from ray_tl.study import tables
from ray_tl.study.address import Address
from ray_tl.study.backend import SPEC_FILE
from ray_tl.study.server_damage import using_server

LOCK_CLASS = 0x7261795F  # "ray_", so that nobody else's advisory locks in the same database are ours
CONNECT_TIMEOUT_S = 5  # for each of the addresses of a host, of which there are often two
FORGET_AFTER_S = 60  # a server takes so long to notice that the machine of a search is gone
_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class DatabaseStudies:
    """The studies of a database by address; see `Studies`.

    Args:
        address: Of the database.
        root: Folder of the folders of their checkpoints and evidence.

    Raises:
        InvalidInput: If the driver is missing.
    """

    def __init__(self, address: Address, root: Path) -> None:
        self.address, self.root = address, root
        address.require_driver()

    def __str__(self) -> str:
        return str(self.address)

    @cached_property
    def engine(self) -> sql.Engine:
        who = f"ray-tl on {socket.gethostname()[:30]}, process {os.getpid()}"
        server_side = " ".join(f"-c tcp_{name}={value}" for name, value in _ALIVE.items())
        arguments = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": who,
            "options": server_side,  # it frees the lock of a machine that is gone
            "tcp_user_timeout": 1000 * FORGET_AFTER_S,  # and here nobody waits for a server that is gone
            **_ALIVE,
        }
        return sql.create_engine(self.address.url, connect_args=arguments, pool_pre_ping=True)

    def using(self) -> AbstractContextManager[None]:
        return using_server(self.address)

    def backend(self, name: str) -> "DatabaseBackend":
        return DatabaseBackend(self, name)

    def names(self) -> list[str]:
        keeps, studies = tables.study_attributes, tables.studies
        query = (
            sql.select(studies.c.study_name)
            .join_from(studies, keeps, keeps.c.study_id == studies.c.study_id)
            .where(keeps.c.key == _key(SPEC_FILE))
            .order_by(studies.c.study_id.desc())
        )
        with self.using(), self.engine.connect() as connection:
            return list(connection.scalars(query)) if _has_tables(connection) else []


class DatabaseBackend:
    """A study of a database by address; see `Backend`. Its small files are attributes of the study for Optuna.

    Args:
        studies: All of the database.
        name: Of the study.
    """

    def __init__(self, studies: DatabaseStudies, name: str) -> None:
        self._studies, self._name, self.folder = studies, name, studies.root / name

    @property
    def engine(self) -> sql.Engine:
        return self._studies.engine

    @property
    def command_options(self) -> str:
        address = "" if storage_address() else f" --storage {shlex.quote(str(self._studies.address))}"
        return home_option(self.folder.parent) + address

    def for_reading(self) -> "DatabaseBackend":
        return self

    def create(self, name: str, spec: bytes) -> None:
        with self.using():
            self._make_tables()
            try:
                with self.engine.begin() as connection:
                    study_id = tables.insert_study(connection, name)
                    _write(connection, study_id, SPEC_FILE, spec)
            except IntegrityError as error:  # its name is taken
                raise InvalidInput(
                    f"study={name!r} exists already in {self._studies.address}; go on with it by --resume {name}, "
                    "or choose another --name."
                ) from error

    def require_database(self) -> None:
        """Nothing: what has been read of the study came from there."""

    def read_file(self, name: str) -> bytes | None:
        keeps, studies = tables.study_attributes, tables.studies
        query = (
            sql.select(keeps.c.value_json)
            .join_from(studies, keeps, keeps.c.study_id == studies.c.study_id)
            .where(studies.c.study_name == self._name, keeps.c.key == _key(name))
        )
        with self.using(), self.engine.connect() as connection:
            found = connection.scalar(query) if _has_tables(connection) else None
        return None if found is None else str(found).encode()

    def write_file(self, name: str, content: bytes) -> None:
        with self.using(), self.engine.begin() as connection:
            _write(connection, tables.study_id(connection, self._name), name, content)

    def place_of(self, name: str) -> str:
        return f"{name or 'what is kept'} of study {self._name!r} in {self._studies.address}"

    @contextmanager
    def held(self, name: str, study_id: int) -> Iterator[sql.Connection]:
        """As the lock belongs to the connection, nobody writes who has lost it; the server frees it when that ends."""
        with self.using(), self.engine.connect() as connection:
            got = connection.scalar(sql.select(sql.func.pg_try_advisory_lock(LOCK_CLASS, study_id)))
            holder = None if got else connection.scalar(_holders(study_id))
            connection.commit()
            if not got:
                raise StudyBusy(
                    f"study={name!r} is being searched by {holder or 'another process'}; "
                    f"wait for it, or stop it and resume. If its machine is gone, wait {FORGET_AFTER_S} s."
                )
            try:
                yield connection
            finally:
                with suppress(SQLAlchemyError):  # with a lost connection the lock is gone too
                    connection.rollback()
                    connection.execute(sql.select(sql.func.pg_advisory_unlock(LOCK_CLASS, study_id)))
                    connection.commit()

    def is_held(self, study_id: int) -> bool:
        with self.using(), self.engine.connect() as connection:
            return connection.scalar(_holders(study_id)) is not None

    def changed_at(self, study_id: int) -> float:
        """Of a running trial, its start counts."""
        trials = tables.trials
        latest = sql.func.max(sql.func.greatest(trials.c.datetime_start, trials.c.datetime_complete))
        with self.using(), self.engine.connect() as connection:
            found = connection.scalar(sql.select(latest).where(trials.c.study_id == study_id))
        return 0.0 if found is None else float(found.replace(tzinfo=UTC).timestamp())

    def using(self) -> AbstractContextManager[None]:
        return self._studies.using()

    def broken(self, what: str) -> BrokenStudy:
        remedy = "restore the database from a copy, or search again under another --name."
        return BrokenStudy(f"{what.removesuffix('.')}; {remedy}")

    def _make_tables(self) -> None:
        """Two that begin in an empty database would make them twice: one waits for the other."""
        lock = sql.func.pg_advisory_xact_lock(LOCK_CLASS, 0)
        with self.engine.begin() as connection:
            connection.execute(sql.select(lock))
            try:
                tables.make_tables(self.engine)
            except RuntimeError as error:
                raise InvalidInput(
                    f"{self._studies.address} has tables of another version of Optuna: {error}"
                ) from error


def _key(name: str) -> str:
    return f"ray_tl:{name}"


def _has_tables(connection: sql.Connection) -> bool:
    return sql.inspect(connection).has_table(tables.study_attributes.name)


def _write(connection: sql.Connection, study_id: int, name: str, content: bytes) -> None:
    keeps, value = tables.study_attributes, json.dumps(json.loads(content))
    connection.execute(sql.delete(keeps).where(keeps.c.study_id == study_id, keeps.c.key == _key(name)))
    connection.execute(sql.insert(keeps).values(study_id=study_id, key=_key(name), value_json=value))


def _holders(study_id: int) -> sql.TextClause:
    """Names of the processes that hold a study."""
    query = sql.text(
        "SELECT coalesce(nullif(holders.application_name, ''), 'another process') FROM pg_locks AS locks "
        "LEFT JOIN pg_stat_activity AS holders ON holders.pid = locks.pid "
        "WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 2 "
        "AND locks.classid = :lock_class AND locks.objid = :study_id "
        "AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return query.bindparams(lock_class=LOCK_CLASS, study_id=study_id)
