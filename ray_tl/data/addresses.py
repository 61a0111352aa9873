"""Where data are: a path on this machine, or an address that `pyarrow.fs` knows."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from ray_tl.errors import InvalidInput

_PASSWORD = re.compile(r"://[^/@?]*:[^/@?]*@")


@dataclass(frozen=True)
class Address:
    """A file or folder, and the file system that has it.

    Attributes:
        stated: As users gave it, for messages; a password in it is masked.
        field: What it was given for, for messages.
        files: The file system.
        path: There.
    """

    stated: str
    field: str
    files: FileSystem
    path: str

    @classmethod
    def of(cls, stated: str, field: str) -> "Address":
        """An address from what users give.

        Raises:
            InvalidInput: If no file system answers to it.
        """
        if not stated.strip():
            raise InvalidInput(f"{field} is empty; give a path or an address.")
        if "://" not in stated:
            return cls(stated, field, LocalFileSystem(), absolute(stated))
        try:
            files, path = FileSystem.from_uri(_with_limit(stated))
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            raise InvalidInput(
                f"{field}={stated!r} can't be reached ({in_short(error)}); check the address."
            ) from error
        if not path.strip("/"):
            raise InvalidInput(f"{field}={stated!r} names no folder or file; check the address.")
        return cls(_PASSWORD.sub("://***@", stated), field, files, path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def local(self) -> Path | None:
        """The path on this machine; `None` elsewhere."""
        return Path(self.path) if isinstance(self.files, LocalFileSystem) else None

    def __str__(self) -> str:
        return f"{self.field}={self.stated!r}"

    def below(self, relative: str) -> "Address":
        """What is at a path relative to this folder."""
        stated = f"{self.stated.rstrip('/')}/{relative}"
        return Address(stated, self.field, self.files, f"{self.path.rstrip('/')}/{relative}")

    def beside(self, relative: str) -> "Address":
        """What is at a path relative to the folder that this file is in, or at an absolute one."""
        if relative.startswith("/"):
            return Address(relative, self.field, self.files, relative)
        return Address(relative, self.field, self.files, str(PurePosixPath(self.path).parent / relative))

    def kind(self) -> FileType:
        """Whether there is a file, a folder, or nothing.

        Raises:
            InvalidInput: If the file system does not say.
        """
        try:
            info: FileInfo = self.files.get_file_info(self.path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInput(f"{self} can't be reached ({in_short(error)}); check the address.") from error
        return info.type

    def read(self, size: int | None = None) -> bytes:
        """All of a file, or its first `size` bytes; never waits for a pipe to be written to.

        Raises:
            InvalidInput: If it can't be read.
        """
        try:
            if self.local is not None:
                return _read_local(self.local, size)
            with self.files.open_input_file(self.path) as file:
                content: bytes = file.read(size)
                return content
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInput(f"can't be read ({in_short(error)})") from error

    def listed(self) -> Iterator[FileInfo]:
        """Everything below a folder that is not on this machine.

        Raises:
            InvalidInput: If it can't be listed.
        """
        try:
            yield from self.files.get_file_info(FileSelector(self.path, recursive=True))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInput(f"{self} can't be listed ({in_short(error)}); check the address.") from error


def has_password(stated: str) -> bool:
    """Whether an address has one in it."""
    return _PASSWORD.search(stated) is not None


def absolute(stated: str) -> str:
    """The same place, whatever folder a process runs in: a path made absolute, an address as it was given."""
    return stated if "://" in stated else os.path.abspath(_expanded(stated))


def require_folder(address: Address, of: str) -> None:
    """Raise `InvalidInput` unless there is a folder, which should be one `of` something."""
    kind = address.kind()
    if kind is not FileType.Directory:
        wrong = "does not exist" if kind is FileType.NotFound else "is a file, not a folder"
        raise InvalidInput(f"{address} {wrong}; give the path of a folder of {of}.")


def _expanded(stated: str) -> str:
    """A path with the home in the place of `~`, where it stands alone: any other name may begin with it."""
    return os.path.expanduser(stated) if stated == "~" or stated.startswith("~/") else stated


def _with_limit(stated: str) -> str:
    """Google's library would try again for a quarter of an hour."""
    if not stated.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in stated:
        return stated
    return f"{stated}{'&' if '?' in stated else '?'}retry_limit_seconds=20"


def _read_local(path: Path, size: int | None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        content: bytes = file.read() if size is None else file.read(size)
        return content or b""


def in_short(error: BaseException) -> str:
    """What a system says, in one line of bearable length."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = " ".join(str(error).split())
    return line if len(line) <= 300 else f"{line[:300]} ..."
