"""The same example twice: exact copies, and near ones that were scaled, compressed or written again."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ray_tl.data.domains import Inputs

THUMBNAIL = 16  # pixels a side, at which brightness is compared
COARSE = 8  # pixels a side, at which colours are compared: JPEG keeps few of them
COARSEST = 4  # pixels a side, by which candidates are found
MAX_DIFFERENCE = 0.14  # of the range of a thumbnail, at any of its pixels; at 0.18 digits of one writer begin to agree
MAX_COARSEST = 0.06  # the same at the coarsest
LEAST_DIFFERENCE = 3.0  # levels: what compression changes in any image
MIN_RANGE = 8  # levels; in flatter images only exact copies count
ROWS_AT_A_TIME = 1024
NEIGHBOURS = 16  # of an image that are held against it; more copies of it are found through these
MIN_WORDS = 4  # of a text that may have near copies
_STOPS = re.compile(r"[.,;!?\"'`\u00b4\u2018-\u201f\u00ab\u00bb\u2026]+")
SHOWN = 3

Pairs = NDArray[np.int64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Contents:
    """What is in a domain, as far as copies are concerned.

    Attributes:
        ids: Of the examples, [N].
        inputs: Images, uint8 [N, C, S, S]; of texts anything with N rows.
        texts: As they were written, [N]; `None` for images.
    """

    ids: Sequence[str]
    inputs: Inputs
    texts: Sequence[str] | None = None

    def take(self, rows: Sequence[int] | Rows) -> "Contents":
        """Some of the examples."""
        texts = None if self.texts is None else [self.texts[row] for row in rows]
        return Contents([self.ids[row] for row in rows], self.inputs[rows], texts)

    @cached_property
    def exact(self) -> NDArray[np.uint64]:
        """Equal for examples of the same pixels or words, [N]."""
        if self.texts is not None:
            return _keys(text.strip().encode() for text in self.texts)
        return _keys(np.ascontiguousarray(row).data for row in self.inputs)

    @cached_property
    def normalised(self) -> NDArray[np.uint64]:
        """Of texts: equal where `normalised_text` is, [N]."""
        assert self.texts is not None
        return _keys(normalised_text(text).encode() for text in self.texts)

    @cached_property
    def thumbnails(self) -> NDArray[np.float32]:
        """Of images, float [N, C, `THUMBNAIL`, `THUMBNAIL`]."""
        return thumbnails(self.inputs.astype(np.uint8, copy=False))

    @cached_property
    def distinct(self) -> Rows:
        """Of images: the first row of each that is there, but for those that are too flat for near copies."""
        rows = np.unique(self.exact, return_index=True)[1]
        return rows[np.ptp(self.thumbnails[rows], axis=(1, 2, 3)) >= MIN_RANGE]


@dataclass(frozen=True)
class Overlap:
    """Examples of one domain that are in another one too.

    Attributes:
        domain: Field of the domain whose examples are counted.
        other: Field of the other.
        exact: Rows of the domain with an exact copy in the other, [K].
        near: Rows of the domain with a near copy in the other alone, [L].
        shown: Names of a few such examples, and of their copies.
        noun: What an example is, in the plural.
    """

    domain: str
    other: str
    exact: Rows
    near: Rows
    shown: tuple[tuple[str, str], ...] = ()
    noun: str = "examples"

    @property
    def rows(self) -> Rows:
        """All of them, [K + L]."""
        return np.concatenate([self.exact, self.near])

    def __str__(self) -> str:
        kinds = [f"{len(self.exact)} exact"] if len(self.exact) else []
        kinds += [f"{len(self.near)} near"] if len(self.near) else []
        count, named = len(self.rows), ", ".join(f"{one} is {other}" for one, other in self.shown)
        noun, copies = (self.noun.removesuffix("s"), "copy") if count == 1 else (self.noun, "copies")
        more = ", ..." if count > len(self.shown) else ""
        verb = "is" if count == 1 else "are"
        stated = f"{count} {noun} of {self.domain} {verb} in {self.other} too"
        return f"{stated}, {' and '.join(kinds)} {copies} ({named}{more})"


def overlap(domain: Contents, other: Contents, names: tuple[str, str], noun: str = "examples") -> Overlap | None:
    """Examples of a domain of which another one has a copy; `None` if there are none."""
    exact = _equal(other.exact, domain.exact)
    near = _equal(other.normalised, domain.normalised) if domain.texts is not None else _near_rows(domain, other)
    both = set(exact[:, 1].tolist())
    near = near[[row not in both for row in near[:, 1].tolist()]]
    if not len(exact) and not len(near):
        return None
    pairs = np.concatenate([exact, near])
    shown = tuple((domain.ids[row], other.ids[copy]) for copy, row in pairs[:SHOWN].tolist())
    return Overlap(*names, np.unique(exact[:, 1]), np.unique(near[:, 1]), shown, noun)


def groups_of_copies(contents: Contents, with_near: bool) -> NDArray[np.int64]:
    """A number for each example, equal for copies of one another, [N]."""
    if contents.texts is not None:
        return np.unique(contents.normalised if with_near else contents.exact, return_inverse=True)[1]
    groups: NDArray[np.int64] = np.unique(contents.exact, return_inverse=True)[1]
    return joined_groups(groups, near_pairs(contents, contents)) if with_near else groups


def joined_groups(groups: NDArray[np.int64], pairs: Pairs) -> NDArray[np.int64]:
    """Groups, [N], of which those become one that a pair of examples connects, [K, 2]."""
    ends = groups[pairs]
    size = int(groups.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1][groups].astype(np.int64)
    return found


def normalised_text(text: str) -> str:
    """What two texts have in common that are copies: compatible characters made one (NFKC), no case, no stops.

    Signs that carry meaning stay, as in `:)`, `C#` and `-5%`. A text of less than `MIN_WORDS` words stays as it is:
    people write the same few words again and again.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _STOPS.sub(" ", plain).split()
    return " ".join(words) if len(words) >= MIN_WORDS else text.strip()


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means over equal parts of images, [N, C, S, S] to [N, C, `THUMBNAIL`, `THUMBNAIL`]; smaller ones stay."""
    return _means(images, THUMBNAIL)


def _means(images: NDArray[np.generic], parts: int) -> NDArray[np.float32]:
    side = images.shape[-1]
    cuts = np.unique(np.linspace(0, side, min(side, parts) + 1).astype(int))
    sums = np.add.reduceat(np.add.reduceat(images, cuts[:-1], axis=2, dtype=np.float32), cuts[:-1], axis=3)
    sizes = np.diff(cuts).astype(np.float32)
    means: NDArray[np.float32] = sums / (sizes[:, None] * sizes[None, :])
    return means


def near_pairs(first: Contents, second: Contents) -> Pairs:
    """Distinct images of two domains whose thumbnails agree everywhere, as rows of either, [K, 2].

    A perceptual fingerprint as of the usual hashes, but compared by its distance: candidates are neighbours in a k-d
    tree of brightness at `COARSEST`. In flat regions the bits of a hash are noise.
    """
    rows, others = first.distinct, second.distinct
    if not len(rows) or not len(others):
        return np.empty((0, 2), np.int64)
    tree = cKDTree(_brightness(second.thumbnails[others], COARSEST))
    parts = (rows[start : start + ROWS_AT_A_TIME] for start in range(0, len(rows), ROWS_AT_A_TIME))
    return np.concatenate([_near(first, part, second, others, tree) for part in parts])


def _near_rows(domain: Contents, other: Contents) -> Pairs:
    """A row of the other for each row of the domain that has a near copy there, [K, 2]."""
    pairs = near_pairs(domain, other)
    copy = {domain.exact[row]: other_row for row, other_row in pairs[::-1]}
    found = [(copy[key], row) for row, key in enumerate(domain.exact) if key in copy]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _near(first: Contents, rows: Rows, second: Contents, others: Rows, tree: cKDTree) -> Pairs:
    small = first.thumbnails[rows]
    reach = np.maximum(LEAST_DIFFERENCE, MAX_COARSEST * np.ptp(small, axis=(1, 2, 3)))
    shape = len(rows), min(NEIGHBOURS, len(others))
    found = tree.query(_brightness(small, COARSEST), shape[1], p=np.inf, distance_upper_bound=reach.max() + 1e-6)
    distances, places = (each.reshape(shape) for each in found)
    at, neighbour = np.nonzero(distances <= reach[:, None])
    pairs = np.stack([rows[at], others[places[at, neighbour]]], axis=1)
    if first is second:
        pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    if not len(pairs):
        return np.empty((0, 2), np.int64)
    chunks = np.array_split(pairs, -(-len(pairs) // 4096))
    return pairs[np.concatenate([_agree(first.thumbnails[one[:, 0]], second.thumbnails[one[:, 1]]) for one in chunks])]


def _brightness(images: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means of brightness over equal parts, [N, C, S, S] to [N, `side`^2]."""
    return _means(_luma(images), side).reshape(len(images), -1)


def _luma(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brightness as JPEG keeps it (ITU-R BT.601), [N, C, S, S] to [N, 1, S, S]."""
    weights = np.array([0.299, 0.587, 0.114] if images.shape[1] == 3 else [1.0], dtype=np.float32)
    return np.tensordot(images, weights, (1, 0))[:, None]


def _agree(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether two thumbnails agree everywhere: brightness at each pixel, colours at each of a few."""
    bright = _close(_luma(one), _luma(other))
    return bright & _close(_means(one, COARSE), _means(other, COARSE))


def _close(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    axes = (1, 2, 3)
    allowed = np.maximum(
        LEAST_DIFFERENCE, MAX_DIFFERENCE * np.minimum(np.ptp(one, axis=axes), np.ptp(other, axis=axes))
    )
    close: NDArray[np.bool_] = np.abs(one - other).max(axis=axes) <= allowed
    return close


def _equal(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> Pairs:
    """A row of the first for each row of the second that has an equal, [K, 2]."""
    place = {key: row for row, key in reversed(list(enumerate(first.tolist())))}
    found = [(place[key], row) for row, key in enumerate(second.tolist()) if key in place]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _keys(parts: Iterator[bytes] | Iterator[memoryview]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(part, digest_size=8).digest() for part in parts)
    return np.frombuffer(digests, dtype=np.uint64)
