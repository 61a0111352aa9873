"""Where the checkpoints and the evidence of a study are kept: in its folder, or at an address that all nodes reach."""

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol, TypeVar

from ray_tl.errors import InvalidInput, StorageFailed
from ray_tl.files import write_atomically
from ray_tl.study.backend import SPEC_FILE
from ray_tl.study.records import StudySpec

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

    from ray_tl.data.addresses import Address

EXAMPLE = "s3://bucket/ray_tl"
KEPT = ("checkpoints", "evidence")
OBJECT_STORES = {"s3", "gcs", "abfs"}  # what is put there is there as a whole, or not at all
CHUNK_BYTES = 2**23
PAUSE_S = 2.0
Write = Callable[[IO[bytes]], object]
Done = TypeVar("Done")
log = logging.getLogger(__name__)


class Artifacts(Protocol):
    """The files of one study, each by its path below the study, none ever half-written; as text, where they are."""

    def write(self, name: str, write: Write) -> None:
        """Replace a file in one step.

        Raises:
            OSError: If the system refuses.
            StorageFailed: If the address does.
        """

    def open(self, name: str) -> IO[bytes]:
        """A file, for reading.

        Raises:
            FileNotFoundError: If there is none.
            StorageFailed: If the address can't be read.
        """

    def remove(self, name: str) -> None:
        """Remove a file, if it is there; errors as of `write`."""


class FolderArtifacts:
    """Files in the folder of the study, which all nodes see; see `Artifacts`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def write(self, name: str, write: Write) -> None:
        write_atomically(self._folder / name, write)

    def open(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("rb")

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class RemoteArtifacts:
    """Files at an address that `pyarrow.fs` knows, in a folder of the study's name; see `Artifacts`.

    Args:
        address: Where all studies have their folders.
        study: Name of the study.
        copies: Folder that gets a copy of each file that is read, which is brought up to date once in the life of this
            object; `None` to read afresh each time, as files that change must be.
        patience_s: How long an operation that fails is retried.
    """

    def __init__(self, address: str, study: str, copies: Path | None = None, patience_s: float = 0) -> None:
        self._patience_s = patience_s
        self._address, self._study, self._copies = address, study, copies
        self._place = _place(address)
        self._are_current: set[str] = set()

    def __str__(self) -> str:
        return "/".join(part for part in (self._place.stated.partition("?")[0].rstrip("/"), self._study) if part)

    def write(self, name: str, write: Write) -> None:
        """What is written goes through a file without a name, which goes with this process however it ends."""
        with tempfile.TemporaryFile(prefix="ray_tl-") as draft:
            write(draft)
            self._patiently(partial(self._upload, draft, self._path(name)))
        self._are_current.discard(name)

    def open(self, name: str) -> IO[bytes]:
        if self._copies is None:
            return self._patiently(partial(self._found, name))
        copy = self._copies / name
        if name not in self._are_current:
            self._bring_up_to_date(name, copy)
            self._are_current.add(name)
        return copy.open("rb")

    def remove(self, name: str) -> None:
        self._are_current.discard(name)
        with self._reached("written"):
            if self._place.files.get_file_info(self._path(name)).is_file:
                self._place.files.delete_file(self._path(name))
        if self._copies is not None:
            (self._copies / name).unlink(missing_ok=True)

    def claim(self, spec: StudySpec) -> None:
        """Take the study's folder there for this study; errors as of `require_none`, for what others have there."""
        if not self._is_of(spec):
            self.require_none()
            self.write(SPEC_FILE, lambda file: file.write(spec.model_dump_json(indent=2).encode()))

    def bring(self, folder: Path) -> None:
        """Write what there is of checkpoints and evidence in a folder."""
        for path in sorted(path for name in KEPT for path in (folder / name).glob("[!.]*")):
            with path.open("rb") as file:
                self.write(f"{path.parent.name}/{path.name}", partial(shutil.copyfileobj, file))

    def require_none(self) -> None:
        """Raise `InvalidInput` if a study of this name has files there."""
        from pyarrow.fs import FileSelector

        with self._reached("listed"):
            found = self._place.files.get_file_info(FileSelector(self._path(""), recursive=True, allow_not_found=True))
        if any(info.is_file for info in found):
            raise InvalidInput(
                f"{self._place} has files of a study {self._study!r} already; choose another --name or address, or "
                "remove them."
            )

    def _is_of(self, spec: StudySpec) -> bool:
        try:
            with RemoteArtifacts(self._address, self._study).open(SPEC_FILE) as file:
                found = StudySpec.model_validate_json(file.read())
        except (FileNotFoundError, ValueError):
            return False
        return (found.created_at, found.data_fingerprint) == (spec.created_at, spec.data_fingerprint)

    def _path(self, name: str) -> str:
        return "/".join(part for part in (self._place.path.rstrip("/"), self._study, name) if part)

    def _info(self, name: str) -> "FileInfo":
        with self._reached("read"):
            info = self._place.files.get_file_info(self._path(name))
        if not info.is_file:
            raise FileNotFoundError(f"{name} is not in {self}")
        return info

    def _patiently(self, do: Callable[[], Done]) -> Done:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return do()
            except StorageFailed as error:
                if time.monotonic() + PAUSE_S > deadline:
                    raise
                log.warning("trying again in %g s: %s", PAUSE_S, error)
            time.sleep(PAUSE_S)

    def _upload(self, draft: IO[bytes], path: str) -> None:
        draft.seek(0)
        with self._reached("written"):
            files = self._place.files
            if files.type_name in OBJECT_STORES:
                self._put(draft, path)
                return
            files.create_dir(str(PurePosixPath(path).parent), recursive=True)
            part = f"{path}.{secrets.token_hex(4)}"
            self._put(draft, part)
            files.move(part, path)

    def _put(self, draft: IO[bytes], path: str) -> None:
        with self._place.files.open_output_stream(path) as stream:
            shutil.copyfileobj(draft, stream, CHUNK_BYTES)

    def _found(self, name: str) -> IO[bytes]:
        self._info(name)
        return self._fetched(name)

    def _fetched(self, name: str) -> IO[bytes]:
        draft = tempfile.TemporaryFile(prefix="ray_tl-")  # noqa: SIM115 - it is handed on
        with self._reached("read"), self._place.files.open_input_stream(self._path(name)) as stream:
            shutil.copyfileobj(stream, draft, CHUNK_BYTES)
        draft.seek(0)
        return draft

    def _bring_up_to_date(self, name: str, copy: Path) -> None:
        """A copy has the time of what it is a copy of, by which another process knows it for one."""
        info = self._info(name)
        if copy.is_file() and (copy.stat().st_size, copy.stat().st_mtime_ns) == (info.size, info.mtime_ns):
            return
        with self._fetched(name) as found:
            write_atomically(copy, lambda file: shutil.copyfileobj(found, file, CHUNK_BYTES))
        os.utime(copy, ns=(info.mtime_ns, info.mtime_ns))

    @contextmanager
    def _reached(self, done: str) -> Iterator[None]:
        """In it, errors of the file system become ours."""
        from pyarrow import ArrowException

        from ray_tl.data.addresses import in_short

        try:
            yield
        except (ArrowException, OSError) as error:
            raise StorageFailed(
                f"{self._place} can't be {done} ({in_short(error)}); check the address, and that this machine has the "
                "right to read and write there: nodes of a cluster get credentials from their environment, to which "
                "`env` of the cluster file adds."
            ) from error


def artifacts_of(spec: StudySpec, folder: Path, with_copies: bool = False, patience_s: float = 0) -> Artifacts:
    """Where a study keeps its files.

    Args:
        spec: Of the study.
        folder: Of the study, on this machine.
        with_copies: Whether files that are read from an address are kept as copies in the folder; only for trials that
            have ended, as files of running trials change.
        patience_s: How long an operation that fails at an address is retried.
    """
    if spec.artifacts is None:
        return FolderArtifacts(folder)
    return RemoteArtifacts(spec.artifacts, spec.name, folder if with_copies else None, patience_s)


def usable_address(stated: str) -> str:
    """The same place from every folder, once it is known that a file can be written there and read again.

    Raises:
        InvalidInput: If it is no address, or has a password in it, which would be kept with the study.
        StorageFailed: If it can't be written or read from here.
    """
    from ray_tl.data.addresses import absolute, has_password

    if has_password(stated):
        raise InvalidInput(
            f"artifacts: the password in the address would be kept with the study; give an address like {EXAMPLE}, and "
            "the password in the environment, as $AWS_SECRET_ACCESS_KEY."
        )
    place = absolute(stated) if stated.strip() else stated
    require_round_trip(RemoteArtifacts(place, ""))
    return place


def require_round_trip(artifacts: Artifacts) -> None:
    """Write a file, read it, and remove it; raises `StorageFailed` if it does not come back as it was."""
    name, token = f"probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
    artifacts.write(name, lambda file: file.write(token))
    with artifacts.open(name) as file:
        found = file.read()
    artifacts.remove(name)
    if found != token:
        raise StorageFailed(f"{artifacts} gives other bytes than were written; choose another address.")


@lru_cache
def _place(stated: str) -> "Address":
    from ray_tl.data.addresses import Address

    return Address.of(stated, "artifacts")
