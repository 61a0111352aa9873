"""Domains from folders of image files, listed first and decoded later."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.addresses import Address, require_folder
from ray_tl.data.class_problems import class_problems
from ray_tl.data.domains import LabelledDomain, UnlabelledDomain
from ray_tl.data.files import THREADS, Found, find_images
from ray_tl.data.formats import READ_FORMATS_IN_WORDS
from ray_tl.data.labels import clean_name, read_labels
from ray_tl.data.legacy import images_of_version_1
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.reading import SHOWN, OnBroken, Reading, counted, require_none, set_aside
from ray_tl.errors import InvalidInput

IMAGES = "images"
SPLIT_NAMES = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "holdout", "unlabeled"}
)


def list_images(folder: Path) -> list[str]:
    """Relative POSIX paths of all images in a folder, told by their content, sorted."""
    return find_images(Address.of(str(folder), "folder")).images


def read_labelled_folder(
    folder: Path,
    preprocessing: Preprocessing,
    on_broken: OnBroken = "stop",
    field: str = "source",
    classes: Sequence[str] | None = None,
) -> LabelledDomain:
    """Images below `folder/CLASS/`, nested as deep as you like, in the order of their relative paths.

    `find_images` says which files count.

    Args:
        folder: Its first level names the classes.
        preprocessing: From file to array.
        on_broken: Unreadable images: raise one error that names them, or leave them out and log them.
        field: What the folder is, for messages.
        classes: Those of another domain, by whose numbers to label. The folder may then lack some of them and have a
            single image of others, but has no more.

    Raises:
        InvalidInput: If the folder is missing or empty, has fewer than two classes, a class with fewer than two
            images, images outside a class, classes of nearly one name, splits in the place of classes, or a class that
            is not in `classes`; or if images are broken.
    """
    listed = LabelledFolder(Address.of(str(folder), field), preprocessing, on_broken, classes)
    require_none(listed.address, listed.problems)
    return listed.read().sound()


def read_unlabelled_folder(
    folder: Path, preprocessing: Preprocessing, on_broken: OnBroken = "stop", field: str = "target"
) -> UnlabelledDomain:
    """Images anywhere below `folder`; the names of folders mean nothing. Otherwise as `read_labelled_folder`.

    Raises:
        InvalidInput: If the folder is missing or has no images, or if images are broken.
    """
    listed = UnlabelledFolder(Address.of(str(folder), field), preprocessing, on_broken)
    require_none(listed.address, listed.problems)
    return listed.read().sound()


@dataclass(frozen=True)
class UnlabelledFolder:
    """A folder of images, listed and not yet decoded.

    Attributes:
        address: Of the folder.
        preprocessing: From file to array.
        on_broken: As in `read_labelled_folder`.

    Raises:
        InvalidInput: If there is no such folder, or it can't be listed.
    """

    address: Address
    preprocessing: Preprocessing
    on_broken: OnBroken = "stop"

    @cached_property
    def found(self) -> Found:
        require_folder(self.address, IMAGES)
        if self.preprocessing.reader_version == 1 and self.address.local is not None:
            return _found_by_version_1(self.address.local)
        return find_images(self.address)

    @cached_property
    def problems(self) -> list[str]:
        """What can be wrong without a look into the images."""
        return [*self.found.problems, *self._empty_problems(self.found.images)]

    def read(self) -> Reading[UnlabelledDomain]:
        """Decode the images."""
        images, kept, problems, left_out = self._decoded()
        domain = UnlabelledDomain(self.address.name, images, tuple(kept))
        return Reading(self.address, domain, IMAGES, (*self.problems, *problems), left_out)

    def _empty_problems(self, images: Sequence[str]) -> list[str]:
        if images or (self.found.broken and self.on_broken == "stop"):
            return []
        return [f"has no images; put files into it that hold {READ_FORMATS_IN_WORDS}."]

    def _decoded(self) -> tuple[NDArray[np.uint8], list[str], list[str], Counter[str]]:
        """Images, their names, what is wrong with the others, and how many were left out."""
        names = self.found.images
        channels, side = self.preprocessing.channels, self.preprocessing.image_size
        images = np.empty((len(names), channels, side, side), np.uint8)

        def decode(row: int) -> str | None:
            try:
                images[row] = self.preprocessing.decode(self.address.below(names[row]).read())
            except InvalidInput as error:
                return str(error)
            return None

        with ThreadPoolExecutor(THREADS) as threads:
            outcomes = list(threads.map(decode, range(len(names))))
        broken = self.found.broken | {name: why for name, why in zip(names, outcomes, strict=True) if why is not None}
        named = {f"{name}:": why for name, why in sorted(broken.items())}
        problems, skipped = set_aside(self.address, named, self.on_broken, IMAGES)
        rows = [row for row, why in enumerate(outcomes) if why is None]
        kept = [names[row] for row in rows]
        if names and not kept:
            problems += self._empty_problems(kept) if self.on_broken == "skip" else []
        return images[rows] if len(rows) < len(names) else images, kept, problems, self.found.left_out + skipped


@dataclass(frozen=True)
class LabelledFolder(UnlabelledFolder):
    """A folder of class folders, listed and not yet decoded.

    Attributes:
        classes: Those of another domain; `None` for the folders' own.
    """

    classes: Sequence[str] | None = None

    @cached_property
    def problems(self) -> list[str]:
        if layout := self._layout_problems():
            return [*self.found.problems, *layout]
        folders = self.found.folders if self.classes is None else []  # otherwise told class by class
        if empty := self._empty_problems([*self.found.images, *folders]):
            return [*self.found.problems, *empty]
        names = [*self.found.images, *self.found.broken]
        return [
            *self.found.problems,
            *self._loose_problems(names),
            *self._unnamed_problems(),
            *self._class_problems([name for name in names if "/" in name]),
        ]

    def read(self) -> Reading[LabelledDomain]:  # type: ignore[override]
        """Decode the images."""
        images, kept, problems, left_out = self._decoded()
        rows = [row for row, name in enumerate(kept) if self.class_of(name) is not None]
        if not self.problems and not problems:
            problems = self._class_problems([kept[row] for row in rows])
        names = self.names
        labels = np.array([names.index(self.class_of(kept[row])) for row in rows], dtype=np.int64)
        ids = tuple(kept[row] for row in rows)
        domain = LabelledDomain(self.address.name, images[rows], ids, labels, names)
        return Reading(self.address, domain, IMAGES, (*self.problems, *problems), left_out)

    @cached_property
    def _labels(self) -> dict[str, str | None]:
        """The class of each folder; `None` where its name stands for none."""
        folders = self.found.folders
        if self.preprocessing.reader_version == 1:
            return dict(zip(folders, folders, strict=True))
        return dict(zip(folders, read_labels(folders)[0], strict=True))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the classes: those of the other domain, and then the folder's own."""
        own = tuple(sorted({label for label in self._labels.values() if label is not None}))
        if self.classes is None:
            return own
        return (*self.classes, *(name for name in own if name not in self.classes))

    def class_of(self, name: str) -> str | None:
        """The class of an image, by its path; `None` outside any class."""
        return self._labels.get(name.split("/", 1)[0]) if "/" in name else None

    def _class_problems(self, names: Sequence[str]) -> list[str]:
        labels = [label for name in names if (label := self.class_of(name)) is not None]
        own = [label for label in self._labels.values() if label is not None]
        written = [] if self.preprocessing.reader_version == 1 else list(self._labels)
        if len(own) < 2 and self.classes is None:
            few = counted(len(own), "class folders")
            return [f"has {few}, but a classifier needs 2; give one folder for each class."]
        return class_problems(written, labels, self.classes, IMAGES, own)

    def _loose_problems(self, names: Sequence[str]) -> list[str]:
        loose = [name for name in names if "/" not in name]
        if not loose:
            return []
        more = ", ..." if len(loose) > SHOWN else ""
        listed = f"({', '.join(loose[:SHOWN])}{more})"
        return [f"has {counted(len(loose), IMAGES)} {listed} outside any class; move them into class folders."]

    def _unnamed_problems(self) -> list[str]:
        return [
            f"has a folder {name!r}, whose name stands for a missing label; rename or remove it."
            for name, label in self._labels.items()
            if label is None
        ]

    def _layout_problems(self) -> list[str]:
        """Whether the classes are one level further down."""
        if self.preprocessing.reader_version == 1:
            return []
        folders = self.found.folders
        splits = [name for name in folders if clean_name(name).casefold() in SPLIT_NAMES]
        if len(splits) > 1 or (splits and len(folders) == 1):
            return [
                f"has the folders {', '.join(folders[:SHOWN])}: {' and '.join(splits)} look like parts of a data set, "
                f"not like classes; give {self.address.stated.rstrip('/')}/{_for_training(splits)}."
            ]
        inside = self._folders_below(folders[0]) if len(folders) == 1 else []
        if len(inside) > 1 and self.classes is None:
            return [
                f"has one folder, {folders[0]!r}, which holds the folders {', '.join(inside[:SHOWN])}; if these are "
                f"the classes, give {self.address.stated.rstrip('/')}/{folders[0]}."
            ]
        return []

    def _folders_below(self, folder: str) -> list[str]:
        paths = (PurePosixPath(name).parts for name in (*self.found.images, *self.found.broken))
        return sorted({parts[1] for parts in paths if parts[0] == folder and len(parts) > 2})


def _for_training(splits: Sequence[str]) -> str:
    return next((name for name in splits if name.casefold().startswith("train")), splits[0])


def _found_by_version_1(folder: Path) -> Found:
    images = images_of_version_1(folder)
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return Found(images, folders)
