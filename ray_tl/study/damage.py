"""What a study's files and database may turn out to be, as errors for people: damaged, refused, locked."""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ray_tl.errors import BrokenStudy, RayTLError, StudyBusy, storage_failure

_REFUSALS = {
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EACCES,
    "SQLITE_CANTOPEN": errno.EACCES,
    "SQLITE_PERM": errno.EACCES,
    "SQLITE_AUTH": errno.EACCES,
    "SQLITE_IOERR": errno.EIO,
}


def broken_study(folder: Path, what: str) -> BrokenStudy:
    """An error that says what is wrong, and what is left to do."""
    return BrokenStudy(f"{what.removesuffix('.')}; restore it from a copy, or remove {folder} and search again.")


def unreadable(place: Path | str, study: str, why: str) -> BrokenStudy:
    """Of a small file that a search writes at its end."""
    anew = f"ray-tl search --resume {study}"
    return BrokenStudy(f"{place} is not what was written ({why}); remove it, and choose a champion again with: {anew}")


@contextmanager
def reading(broken: Callable[[str], BrokenStudy], study: str) -> Iterator[None]:
    """Whatever goes wrong in the block, in which what is stored is only read, is a fault of what is stored.

    Args:
        broken: Makes the error of a description.
        study: Where the study is, for people.
    """
    try:
        yield
    except RayTLError:
        raise
    except (LookupError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise broken(f"the database of {study} is not what was written ({said})") from error


@contextmanager
def using_database(path: Path) -> Iterator[None]:
    """Errors of SQLite in the block become ours.

    Raises:
        StorageFailed: If the database can't be read or written.
        StudyBusy: If another process keeps it locked.
        BrokenStudy: If it is damaged.
    """
    try:
        yield
    except Exception as error:  # Optuna, that not all import, has errors of its own for those of a database
        if not isinstance(_cause(error), sqlite3.Error | SQLAlchemyError):
            raise
        raise _ours(path, _cause(error)) from error


def _cause(error: BaseException) -> BaseException:
    """What SQLite said, which SQLAlchemy and Optuna have wrapped."""
    while error.__cause__ is not None and not isinstance(error, sqlite3.Error):
        error = error.__cause__
    return error


def _ours(path: Path, error: BaseException) -> RayTLError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StudyBusy(f"{path}: {error}: another process is writing to it; wait for it, and try again.")
    for kind, number in _REFUSALS.items():
        if name.startswith(kind):
            return storage_failure(OSError(number, os.strerror(number)), f"{path}: {error}")
    return broken_study(path.parent, f"{path} is damaged ({error})")
