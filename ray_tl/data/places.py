"""The domains that a search is given, listed: what is there, before an example is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

from ray_tl.data.addresses import Address
from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.domains import LabelledDomain, UnlabelledDomain
from ray_tl.data.images import IMAGES, LabelledFolder, UnlabelledFolder
from ray_tl.data.preprocessing import AnyPreprocessing, Preprocessing
from ray_tl.data.reading import Reading
from ray_tl.data.splits import random_halves
from ray_tl.data.table_domains import LabelledTable, UnlabelledTable
from ray_tl.data.tables import is_table_at
from ray_tl.data.text import TextPreprocessing
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions

MNIST, OPTDIGITS, OPTDIGITS_TEST = "digits:mnist", "digits:optdigits", "digits:optdigits/test"
HALVES_SEED = 0
SOURCE, TARGET, TARGET_TEST, TARGET_LABELLED = "source", "target", "target_test", "target_labelled"
INTERMEDIATE, AUXILIARY = "intermediate", "auxiliary"
GROUP, FOLDER = "group", "folder"
_DIGITS = {SOURCE: [MNIST], TARGET: [OPTDIGITS, OPTDIGITS_TEST], TARGET_LABELLED: [OPTDIGITS]}


class Listing(Protocol):
    """A domain that is known to be there, and is still to be read."""

    @property
    def address(self) -> Address:
        """Of the domain."""
        ...

    @property
    def problems(self) -> list[str]:
        """What is wrong as far as can be seen without reading examples."""
        ...

    def read(self) -> Reading:
        """Read the examples."""
        ...


@dataclass(frozen=True)
class Places:
    """Where the domains of a study are: folders of images, tables, or the packaged digits.

    Attributes:
        source: Labelled: class folders, a table with a column of labels, or `digits:mnist`.
        target: Unlabelled: `digits:optdigits` is one half of that set.
        target_test: Unlabelled, never trained on: `digits:optdigits/test` is the other half; `None` for none.
        target_labelled: Labelled target examples to train on; `digits:optdigits` for the half that is searched on.
        intermediate: Domains on the way from source to target, in order. Where all folders in one are named as classes
            of the source, its images are labelled; where none is, they are not.
        auxiliary: Class folders of another task.
    """

    source: str
    target: str
    target_test: str | None = None
    target_labelled: str | None = None
    intermediate: tuple[str, ...] = ()
    auxiliary: str | None = None

    def stated(self) -> list[tuple[str, str]]:
        """Field and place of each domain that is given, the source first."""
        named = [(SOURCE, self.source), (TARGET, self.target)]
        named += [(TARGET_TEST, self.target_test)] if self.target_test is not None else []
        named += [(TARGET_LABELLED, self.target_labelled)] if self.target_labelled is not None else []
        named += [(between(number), place) for number, place in enumerate(self.intermediate)]
        return named + ([(AUXILIARY, self.auxiliary)] if self.auxiliary is not None else [])


def between(number: int) -> str:
    """Field of an intermediate domain."""
    return f"{INTERMEDIATE} {number + 1}"


def is_between(field: str) -> bool:
    return field.startswith(INTERMEDIATE)


def list_domain(
    field: str, stated: str, preprocessing: AnyPreprocessing, options: DataOptions, classes: Sequence[str] | None
) -> Listing:
    """What is at a place.

    Args:
        field: Of the search, for messages and to know whether there are labels.
        stated: The place.
        preprocessing: From a file or cell to an example.
        options: Name columns, and say what to do with what can't be read.
        classes: Of the source; `None` for the source itself.

    Raises:
        InvalidInput: If nothing that can be read is there.
    """
    if stated.startswith("digits:"):
        return Ready(Address.of(stated, field), _digits(field, stated, preprocessing))
    address = Address.of(stated, field)
    is_text = isinstance(preprocessing, TextPreprocessing)
    if is_text and (is_between(field) or field == AUXILIARY):
        raise InvalidInput("--intermediate and --auxiliary are folders of images so far; leave them out for texts.")
    if is_text or is_table_at(address):
        return _table(field, address, preprocessing, options, classes)
    assert isinstance(preprocessing, Preprocessing)
    if field == SOURCE and (options.split_by not in (None, GROUP, FOLDER) or options.split_by_time is not None):
        raise InvalidInput(_why_no_column(address, options))
    if is_between(field):
        return _between(address, preprocessing, options, classes or ())
    if field in (TARGET, TARGET_TEST):
        return UnlabelledFolder(address, preprocessing, options.on_broken)
    known = classes if field == TARGET_LABELLED else None
    return LabelledFolder(address, preprocessing, options.on_broken, known)


def nested_problems(listings: Sequence[Listing]) -> list[str]:
    """Folders that are inside one another, so that the images of one would be read as some of the other's."""
    local = [(each.address, each.address.local) for each in listings if isinstance(each, UnlabelledFolder)]
    folders = [(address, path.resolve()) for address, path in local if path is not None]
    return [
        f"{inner} is inside {outer}, where its images would be read as {outer.field} too; move it out."
        for (outer, around), (inner, inside) in permutations(folders, 2)
        if around in inside.parents
    ]


@dataclass(frozen=True)
class Ready:
    """A domain that needs no reading."""

    address: Address
    domain: UnlabelledDomain

    @property
    def problems(self) -> list[str]:
        return []

    @property
    def names(self) -> tuple[str, ...]:
        return self.domain.classes if isinstance(self.domain, LabelledDomain) else ()

    def read(self) -> Reading:
        return Reading(self.address, self.domain, IMAGES)


def _table(
    field: str,
    address: Address,
    preprocessing: AnyPreprocessing,
    options: DataOptions,
    classes: Sequence[str] | None,
) -> UnlabelledTable:
    if field in (TARGET, TARGET_TEST) or is_between(field):
        return UnlabelledTable(address, preprocessing, options)
    if field != SOURCE:
        return LabelledTable(address, preprocessing, options, classes if field == TARGET_LABELLED else None)
    stated = [name for name in (options.split_by, options.split_by_time) if name not in (None, GROUP)]
    if FOLDER in stated:
        raise InvalidInput(f"split_by='folder' is for folders of images, and {address} is a table; name a column.")
    wanted = (GROUP,) if options.split_by == GROUP else ()
    return LabelledTable(address, preprocessing, options, None, tuple(map(str, stated)), wanted)


def _why_no_column(address: Address, options: DataOptions) -> str:
    key = "split_by" if options.split_by_time is None else "split_by_time"
    other = "choose --split-by group or folder" if key == "split_by" else "leave it out"
    stated = f"{key}={getattr(options, key)!r} names a column, and {address} is a folder, which has none"
    return f"{stated}; {other}, or give a table."


def _between(
    address: Address, preprocessing: Preprocessing, options: DataOptions, classes: Sequence[str]
) -> UnlabelledFolder:
    unlabelled = UnlabelledFolder(address, preprocessing, options.on_broken)
    inside = unlabelled.found.folders
    known = [name for name in inside if name in classes]
    if not known:
        return unlabelled
    if len(known) < len(inside):
        foreign = ", ".join(name for name in inside if name not in known)
        raise InvalidInput(
            f"{address} has folders named as classes of the source ({', '.join(known[:5])}) and others "
            f"({foreign[:200]}); rename or remove the others, or put all images side by side to use none of the labels."
        )
    return LabelledFolder(address, preprocessing, options.on_broken, classes)


def _digits(field: str, stated: str, preprocessing: AnyPreprocessing) -> UnlabelledDomain:
    known = _DIGITS.get(TARGET if field == TARGET_TEST else field, [])
    if stated not in known or not isinstance(preprocessing, Preprocessing):
        choices = f"choose from {', '.join(known)}, or give" if known else "give"
        raise InvalidInput(f"{field}={stated!r} is not known; {choices} a folder.")
    if field == SOURCE:
        return load_mnist_5k(preprocessing)
    half = random_halves(load_optdigits(preprocessing), HALVES_SEED)[int(stated == OPTDIGITS_TEST)]
    return half if field == TARGET_LABELLED else UnlabelledDomain(stated, half.inputs, half.ids)
