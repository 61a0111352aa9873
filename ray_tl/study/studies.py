"""All studies of one place: a folder of folders, or a database by address."""

import re
from pathlib import Path
from typing import Protocol

from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.registry import did_you_mean
from ray_tl.study.address import Address
from ray_tl.study.backend import SPEC_FILE, Backend
from ray_tl.study.database import DatabaseStudies
from ray_tl.study.folder import FolderBackend

NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Studies(Protocol):
    """Where studies are; as text, for users.

    Attributes:
        root: Folder of the folders of their checkpoints and evidence.
    """

    root: Path

    def names(self) -> list[str]:
        """Of all studies, the newest first."""

    def backend(self, name: str) -> Backend:
        """Of a study, which need not be there yet."""


class FolderStudies:
    """Each study is all in its folder below `root`; see `Studies`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def names(self) -> list[str]:
        specs = sorted(self.root.glob(f"*/{SPEC_FILE}"), key=_changed_at, reverse=True)
        return [spec.parent.name for spec in specs]

    def backend(self, name: str) -> FolderBackend:
        return FolderBackend(self.root / name)


def studies_at(root: Path, address: str | None = None) -> Studies:
    """The studies in a folder, or those in a database, whose checkpoints and evidence are in the folder.

    Raises:
        InvalidInput: If it is no address of a database, or its driver is missing.
    """
    if not address:
        return FolderStudies(root)
    return DatabaseStudies(Address.parsed(address), root)


def find_study(studies: Studies | Path, name: str) -> Backend:
    """A study that is there.

    Raises:
        UnknownName: If there is none; the message lists those that there are.
    """
    check_name("study", name)
    studies = studies_at(studies) if isinstance(studies, Path) else studies
    backend = studies.backend(name)
    if backend.read_file(SPEC_FILE) is None:
        raise UnknownName(f"study={name!r} is not in {studies}{did_you_mean(name, studies.names())}")
    return backend


def check_name(what: str, name: str) -> None:
    """Raise `InvalidInput` unless `name` can be a file name everywhere."""
    if not NAME_RULE.fullmatch(name):
        raise InvalidInput(
            f"{what}={name!r} must start with a letter or digit and hold at most 64 of A-Z a-z 0-9 . _ -; rename it."
        )


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a link to nowhere, or a study that was removed just now
        return 0.0
