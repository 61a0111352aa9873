"""Files of ours on a disk that may be full or refuse us: whole or not there, and an error says which."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ray_tl.errors import storage_failure

LEAST_FREE_BYTES = 2**20  # an empty study takes a quarter of it


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write under a temporary name beside `path`, on the disk before it is renamed.

    Raises:
        OSError: With the path, if the system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with naming(path), removed_on_failure(draft):
        with draft.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system in the block says which file it is about, as one of writing would not."""
    try:
        yield
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise OSError(refusal.errno, refusal.strerror, str(path)) from error


def _refusal(error: BaseException | None) -> OSError | None:
    """The error of the system behind an error: torch has one of its own for a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def removed_on_failure(*paths: Path) -> Iterator[None]:
    """Files and folders that the block makes are removed if it does not come to its end."""
    try:
        yield
    except BaseException:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)  # does nothing to a file
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def require_writable(folder: Path) -> None:
    """See to it, before hours are spent, that a folder can be made or written to; nothing stays of the attempt.

    Raises:
        StorageFailed: If it can't, or the disk is full.
    """
    place = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".ray_tl-", dir=place))
        disk = shutil.disk_usage(place)
        if disk.total and disk.free < LEAST_FREE_BYTES:  # some file systems do not say
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise storage_failure(error, f"{folder} can't be written") from error
