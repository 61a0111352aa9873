"""What is in a folder of images: one walk for search and predict, decided by content, and what it leaves out."""

import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from pyarrow.fs import FileType

from ray_tl.data.addresses import Address
from ray_tl.data.formats import HEAD_BYTES, IMAGE_SUFFIXES, image_format, other_image_format, why_not_read
from ray_tl.errors import InvalidInput

THREADS = min(8, os.cpu_count() or 1)

HIDDEN_FILES, HIDDEN_FOLDERS = "hidden files", "hidden folders"
SEEN_FOLDERS = "links to folders that are read already, or that this one is in"
DANGLING = "links to nothing"
SPECIAL = "pipes, sockets and devices"
OTHER_FILES = "other files"
SYSTEM_FOLDERS = "folders of the system"
_OF_THE_SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


@dataclass(frozen=True)
class Found:
    """The files of a folder that are meant to be images.

    Attributes:
        images: Relative POSIX paths, sorted.
        folders: Names of the folders on the first level, sorted; hidden ones not among them.
        broken: Why a file that is meant to be an image can't be read, by path.
        left_out: How many files or folders were left out, by reason.
        problems: What no search can go on with, such as names that are not UTF-8.
    """

    images: list[str]
    folders: list[str]
    broken: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def find_images(folder: Address) -> Found:
    """All images below a folder, told by their content.

    Left out and counted are hidden files and folders (of which macOS and notebooks write some), what is neither file
    nor folder, and files of other kinds. Links are followed, but each real folder is read once, where it really is if
    that is below the folder too. A file with the suffix of an image that holds none is broken.

    Raises:
        InvalidInput: If a folder can't be listed.
    """
    walk = _walk_local(folder.local) if folder.local is not None else _walk_remote(folder)
    with ThreadPoolExecutor(THREADS) as threads:
        verdicts = dict(zip(walk.images, threads.map(partial(_verdict, folder), walk.images), strict=True))
    images = [name for name, (kind, _) in verdicts.items() if kind == "image"]
    broken = {name: why for name, (kind, why) in verdicts.items() if kind == "broken"}
    for name, (kind, _) in verdicts.items():
        if kind == "other":
            walk.left_out[f"{OTHER_FILES} {_suffix(name) or 'without a suffix'}"] += 1
    return Found(images, walk.folders, broken, walk.left_out, walk.problems)


def _verdict(folder: Address, name: str) -> tuple[Literal["image", "broken", "other"], str]:
    """Whether a file is an image, is meant to be one, or is something else; of the second kind also why."""
    try:
        head = folder.below(name).read(HEAD_BYTES)
    except InvalidInput as error:
        return "broken", str(error)
    if image_format(head) is not None:
        return "image", ""
    is_meant = _suffix(name) in IMAGE_SUFFIXES or other_image_format(head) is not None
    return ("broken", why_not_read(head)) if is_meant else ("other", "")


def _walk_remote(folder: Address) -> Found:
    """Every file at an address; object stores know neither links nor pipes."""
    found = Found([], [])
    hidden: set[str] = set()
    for info in folder.listed():
        relative = PurePosixPath(info.path).relative_to(folder.path)
        veiled = next((at for at, part in enumerate(relative.parts) if part.startswith(".")), None)
        if veiled is None:
            if info.type is FileType.File:
                found.images.append(relative.as_posix())
            elif len(relative.parts) == 1:
                found.folders.append(relative.name)
        elif veiled < len(relative.parts) - 1 or info.type is FileType.Directory:
            hidden.add("/".join(relative.parts[: veiled + 1]))
        else:
            found.left_out[HIDDEN_FILES] += 1
    if hidden:
        found.left_out[HIDDEN_FOLDERS] = len(hidden)
    # A store of objects may list no folders: a file's first part is one.
    firsts = {name.split("/", 1)[0] for name in found.images if "/" in name}
    return Found(sorted(found.images), sorted({*found.folders, *firsts}), left_out=found.left_out)


def _walk_local(top: Path) -> Found:
    """Every file of a folder on this machine; folders that are really there come before those that links lead to."""
    found = Found([], [])
    # A link that leads back up would bring in all that lies beside the folder.
    seen = {_identity(folder.stat()) for folder in (top, *top.resolve().parents)}
    here, linked = deque([top]), deque[Path]()
    while here or linked:
        folder = here.popleft() if here else linked.popleft()
        if folder != top and not _is_new(folder, seen):
            found.left_out[SEEN_FOLDERS] += 1
            continue
        if folder.parent == top and folder != top:
            found.folders.append(folder.name)
        for entry in _entries(folder, found, top):
            if not entry.is_dir():
                found.images.append(Path(entry.path).relative_to(top).as_posix())
            else:
                (linked if entry.is_symlink() else here).append(Path(entry.path))
    return Found(sorted(found.images), sorted(found.folders), left_out=found.left_out, problems=found.problems)


def _entries(folder: Path, found: Found, top: Path) -> Iterator[os.DirEntry[str]]:
    """Files and folders that are neither hidden nor of another kind; what is left out is counted."""
    try:
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInput(
            f"the folder {str(folder)!r} can't be listed ({error.strerror}); mend its rights."
        ) from error
    for entry in inside:
        if reason := _why_left_out(entry):
            found.left_out[reason] += 1
        elif _is_utf8(entry.name):
            yield entry
        else:
            shown = os.fsencode(Path(entry.path).relative_to(top)).decode("utf-8", "backslashreplace")
            found.problems.append(f"the name of {shown!r} is not UTF-8; rename it.")


def _why_left_out(entry: os.DirEntry[str]) -> str | None:
    try:
        mode = entry.stat().st_mode
    except OSError:
        return DANGLING
    if entry.name.startswith("."):
        return HIDDEN_FOLDERS if stat.S_ISDIR(mode) else HIDDEN_FILES
    if entry.name in _OF_THE_SYSTEM:
        return SYSTEM_FOLDERS
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else SPECIAL


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    identity = _identity(folder.stat())
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
