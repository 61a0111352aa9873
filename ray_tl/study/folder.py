"""A study in a folder of its own: an SQLite database, files, and a lock of the operating system."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TextIO

import sqlalchemy as sql

from ray_tl.errors import BrokenStudy, InvalidInput, StudyBusy
from ray_tl.files import removed_on_failure, write_atomically
from ray_tl.home import home_option
from ray_tl.study import tables
from ray_tl.study.backend import SPEC_FILE
from ray_tl.study.damage import broken_study, using_database

LOCK_FILE = "search.lock"
DATABASE = "study.db"
LOCK_TIMEOUT_S = 60
Mode = Literal["rwc", "rw", "ro"]


class FolderBackend:
    """A study whose folder holds all of it; see `Backend`.

    Args:
        folder: Of the study.
        mode: Of SQLite: `ro` if nothing may be written.
    """

    def __init__(self, folder: Path, mode: Mode = "rw") -> None:
        self.folder, self._mode = folder, mode

    def for_reading(self) -> "FolderBackend":
        """Where it can be written, SQLite may finish what a killed search has left half-written."""
        may_write = all(os.access(path, os.W_OK) for path in (self.folder, self.folder / DATABASE))
        return FolderBackend(self.folder, "rw" if may_write else "ro")

    @property
    def command_options(self) -> str:
        return home_option(self.folder.parent)

    @cached_property
    def engine(self) -> sql.Engine:
        return self._engine(self._mode)

    def create(self, name: str, spec: bytes) -> None:
        if (self.folder / SPEC_FILE).exists():
            raise InvalidInput(
                f"study={name!r} exists already in {self.folder}; go on with it by --resume {name}, "
                "or choose another --name."
            )
        with removed_on_failure(*(path for path in (self.folder,) if not path.exists())):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.using():
                tables.make_tables(self._engine("rwc"))
                with self.engine.begin() as connection:
                    if not connection.scalar(sql.select(tables.studies.c.study_id)):  # left by a killed process
                        tables.insert_study(connection, name)
            self.write_file(SPEC_FILE, spec)

    def require_database(self) -> None:
        if not (self.folder / DATABASE).is_file():
            raise self.broken(f"{self.folder / DATABASE} is missing")

    def read_file(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def write_file(self, name: str, content: bytes) -> None:
        write_atomically(self.folder / name, lambda file: file.write(content))

    def place_of(self, name: str) -> str:
        return str(self.folder / name)

    @contextmanager
    def held(self, name: str, study_id: int) -> Iterator[sql.Connection]:
        with open(self.folder / LOCK_FILE, "a+") as lock:
            if not _locked(lock, fcntl.LOCK_EX):
                lock.seek(0)
                raise StudyBusy(
                    f"study={name!r} is being searched by process {lock.read().strip() or '?'}; "
                    "wait for it, or stop it and resume."
                )
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            with self.using(), self.engine.connect() as connection:
                yield connection

    def is_held(self, study_id: int) -> bool:
        if not (self.folder / LOCK_FILE).exists():
            return False
        with open(self.folder / LOCK_FILE) as lock:
            return not _locked(lock, fcntl.LOCK_SH)  # shared: those who look are not in each other's way

    def changed_at(self, study_id: int) -> float:
        return (self.folder / DATABASE).stat().st_mtime

    def using(self) -> AbstractContextManager[None]:
        return using_database(self.folder / DATABASE)

    def broken(self, what: str) -> BrokenStudy:
        return broken_study(self.folder, what)

    def _engine(self, mode: Mode) -> sql.Engine:
        """The database in a mode of SQLite: `rwc` makes it, `rw` does not, `ro` leaves it as it is."""
        address = f"{(self.folder / DATABASE).absolute().as_uri()}?mode={mode}"
        connect = partial(sqlite3.connect, address, uri=True, timeout=LOCK_TIMEOUT_S, check_same_thread=False)
        return sql.create_engine(f"sqlite:///{DATABASE}", creator=connect)


def _locked(file: TextIO, kind: int) -> bool:
    """Whether the lock was got; it is freed when the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
