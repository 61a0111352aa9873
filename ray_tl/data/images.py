"""Domains from folders of image files."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.domains import LabelledDomain, UnlabelledDomain
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput, all_at_once

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
SHOWN = 10

OnBroken = Literal["stop", "skip"]
Check = Callable[[Sequence[str], Sequence[str]], list[str]]

_log = logging.getLogger(__name__)


def read_labelled_folder(
    folder: Path,
    preprocessing: Preprocessing,
    on_broken: OnBroken = "stop",
    field: str = "source",
    classes: Sequence[str] | None = None,
) -> LabelledDomain:
    """Images below `folder/CLASS/`, nested as deep as you like, in the order of their relative paths.

    Hidden files and folders, and files with other suffixes than `SUFFIXES`, are left out.

    Args:
        folder: Its first level names the classes.
        preprocessing: From file to array.
        on_broken: Unreadable images: raise one error that names them, or leave them out and log them.
        field: What the folder is, for messages.
        classes: Those of another domain, by whose numbers to label. The folder may then lack some of them and have a
            single image of others, but has no more.

    Raises:
        InvalidInput: If the folder is missing or empty, has fewer than two classes, a class with fewer than two
            images, images outside a class, or a class that is not in `classes`; or if images are broken.
    """
    found = [name for name in sorted(os.listdir(_existing(folder, field))) if _is_class(folder / name)]
    check = _class_problems if classes is None else partial(_foreign_problems, classes)
    ids = list_images(folder)
    _require_sound(_layout_problems(ids, found, check), folder, field)
    images, kept = _decode_all(folder, ids, preprocessing, on_broken, field)
    _require_sound(_empty_problems(kept) or check(kept, found), folder, field)
    classes = found if classes is None else classes
    labels = np.array([classes.index(_class_of(id)) for id in kept], dtype=np.int64)
    return LabelledDomain(folder.name, images, tuple(kept), labels, tuple(classes))


def read_unlabelled_folder(
    folder: Path, preprocessing: Preprocessing, on_broken: OnBroken = "stop", field: str = "target"
) -> UnlabelledDomain:
    """Images anywhere below `folder`; the names of folders mean nothing. Otherwise as `read_labelled_folder`.

    Raises:
        InvalidInput: If the folder is missing or has no images, or if images are broken.
    """
    ids = list_images(_existing(folder, field))
    _require_sound(_empty_problems(ids), folder, field)
    images, kept = _decode_all(folder, ids, preprocessing, on_broken, field)
    _require_sound(_empty_problems(kept), folder, field)
    return UnlabelledDomain(folder.name, images, tuple(kept))


def _existing(folder: Path, field: str) -> Path:
    if not folder.is_dir():
        wrong = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InvalidInput(f"{field}='{folder}' {wrong}; give the path of a folder of images.")
    return folder


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def list_images(folder: Path) -> list[str]:
    """Relative POSIX paths of all images, sorted."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(here) / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def _class_of(id: str) -> str:
    return id.split("/", 1)[0]


def _layout_problems(ids: Sequence[str], classes: Sequence[str], check: Check) -> list[str]:
    if not ids:
        return _empty_problems(ids)
    loose = [id for id in ids if "/" not in id]
    outside = [f"has {_listed(loose)} outside any class; move them into class folders."] if loose else []
    return outside + check(ids, classes)


def _empty_problems(ids: Sequence[str]) -> list[str]:
    return [] if ids else [f"has no images; put files with the suffix {', '.join(sorted(SUFFIXES))} into it."]


def _class_problems(ids: Sequence[str], classes: Sequence[str]) -> list[str]:
    if len(classes) < 2:
        return [f"has {len(classes)} class folders, but a classifier needs 2; give one folder for each class."]
    sizes = Counter(map(_class_of, ids))
    return [
        f"class {name!r} has {sizes[name]} images, but training and hold-out need 2; add some or remove the folder."
        for name in classes
        if sizes[name] < 2
    ]


def _foreign_problems(known: Sequence[str], ids: Sequence[str], classes: Sequence[str]) -> list[str]:
    foreign = [name for name in classes if name not in known]
    if not foreign:
        return []
    return [f"has the classes {', '.join(foreign[:SHOWN])}, which the source lacks; rename or remove these folders."]


def _require_sound(problems: Sequence[str], folder: Path, field: str) -> None:
    if problems:
        raise all_at_once(f"{field}='{folder}'", problems)


def _decode_all(
    folder: Path, ids: Sequence[str], preprocessing: Preprocessing, on_broken: OnBroken, field: str
) -> tuple[NDArray[np.uint8], list[str]]:
    images = np.empty((len(ids), preprocessing.channels, preprocessing.image_size, preprocessing.image_size), np.uint8)

    def decode(row: int) -> str | None:
        try:
            images[row] = preprocessing.decode((folder / ids[row]).read_bytes())
        except (InvalidInput, OSError) as error:
            return f"{ids[row]}: {error}"
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        outcomes = list(threads.map(decode, range(len(ids))))
    broken = [outcome for outcome in outcomes if outcome is not None]
    if broken and on_broken == "stop":
        raise InvalidInput(
            f"{field}='{folder}' has {_listed(broken)} that can't be read; mend them or set on_broken: skip."
        )
    for reason in broken:
        _log.warning("%s: left out %s", field, reason)
    kept = [row for row, outcome in enumerate(outcomes) if outcome is None]
    return images[kept] if broken else images, [ids[row] for row in kept]


def _listed(items: Sequence[str]) -> str:
    """How many images, and the first of them by name."""
    more = ", ..." if len(items) > SHOWN else ""
    return f"{len(items)} images ({', '.join(items[:SHOWN])}{more})"
