"""Model folders: `ROOT/NAME/v1, v2, ...`, and what a person may call a version."""

import re
from pathlib import Path

from ray_tl.config import UserFunction
from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.models.ensemble import Network
from ray_tl.promotion.bundle import FolderTaken, Lineage, ModelSpec, write_bundle
from ray_tl.registry import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"v([1-9][0-9]*)")


def models(root: Path) -> list[str]:
    """Names that have a version, sorted."""
    return sorted(path.name for path in root.glob("*") if versions(path.name, root))


def versions(name: str, root: Path) -> list[str]:
    """Versions of a model, oldest first; empty if there is no such model."""
    found = [path.name for path in (root / name).glob("v*") if path.is_dir() and _VERSION.fullmatch(path.name)]
    return sorted(found, key=_number)


def next_version(name: str, root: Path) -> Path:
    """The folder of a model's next version; two callers may get the same, and only one can write it.

    Raises:
        InvalidInput: If the name holds anything but letters, digits, `-`, `_` and `.`.
    """
    _require_valid(name)
    newest = max(map(_number, versions(name, root)), default=0)
    return root / name / f"v{newest + 1}"


def add_version(
    name: str, root: Path, model: Network, spec: ModelSpec, lineage: Lineage, function: UserFunction | None = None
) -> Path:
    """Write the next version; safe among processes that promote the same model at the same time.

    Raises:
        InvalidInput: If the name is not valid.
    """
    while True:
        try:
            return write_bundle(next_version(name, root), model, spec, lineage, function)
        except FolderTaken:  # another promotion was faster
            continue


def resolve(model: str, root: Path) -> Path:
    """The version folder that `NAME` (its newest), `NAME@v2`, or a path with a `/` in it means.

    Raises:
        UnknownName: If there is none; the message lists what exists.
    """
    if "/" in model:
        return _existing(Path(model))
    name, _, version = model.partition("@")
    _require_valid(name)
    known = versions(name, root)
    if not known:
        raise UnknownName(f"model {name!r} is not in {root}{did_you_mean(name, models(root))}")
    if version and version not in known:
        raise UnknownName(f"model {name!r} has no version {version!r}{did_you_mean(version, known)}")
    return root / name / (version or known[-1])


def _number(version: str) -> int:
    return int(version.removeprefix("v"))


def _require_valid(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"model name {name!r} must be 1 to 100 letters, digits, '-', '_' or '.', the first a letter or digit; "
            "rename it."
        )


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise UnknownName(f"model={str(folder)!r} is no folder; give a version folder, NAME or NAME@v2.")
    return folder
