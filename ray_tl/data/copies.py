"""The same example twice: exact copies, and near ones that were scaled, compressed or written again."""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ray_tl.data.domains import Inputs

THUMBNAIL = 16  # pixels a side
COARSE = 8  # pixels a side, at which colours are compared: JPEG keeps few of them
HASH_SIDE = 8  # of the low frequencies that make 64 bits
BANDS = 4  # of 16 bits: pairs that differ in less than 4 bits share one
MAX_BUCKET = 64  # rows of a bucket of the hash that are held against one another
MAX_DIFFERENCE = 0.14  # of the range of a thumbnail, at any of its pixels; at 0.18 digits of one writer begin to agree
MIN_RANGE = 8  # levels; in flatter images only exact copies count
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
        """Of texts: equal where they differ by case, blanks, punctuation and Unicode form alone, [N]."""
        assert self.texts is not None
        return _keys(normalised_text(text).encode() for text in self.texts)

    @cached_property
    def thumbnails(self) -> NDArray[np.float32]:
        """Of images, float [N, C, `THUMBNAIL`, `THUMBNAIL`]."""
        return thumbnails(self.inputs.astype(np.uint8, copy=False))

    @cached_property
    def hashes(self) -> NDArray[np.uint16]:
        """Perceptual hash of images in `BANDS` of 16 bits, [N, `BANDS`]."""
        return perceptual_hashes(self.thumbnails)


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
    near = _equal(other.normalised, domain.normalised) if domain.texts is not None else near_pairs(other, domain)
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
    """Words alone: compatible characters made one (NFKC), no case, no punctuation, single blanks."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(letter if unicodedata.category(letter)[0] in "LNMS" else " " for letter in plain)
    return " ".join(words.split()) or text.strip()


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


def perceptual_hashes(small: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Signs of low frequencies of the grey thumbnail about their median, [N, C, T, T] to [N, `BANDS`].

    The usual pHash; Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.
    Departure: thumbnails of 16 pixels a side instead of 32.
    """
    low = dctn(small.mean(axis=1), axes=(1, 2))[:, :HASH_SIDE, :HASH_SIDE].reshape(len(small), -1)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    packed = np.packbits(bits, axis=1)
    found: NDArray[np.uint16] = packed.view(np.uint16) if packed.shape[1] == 8 else packed.astype(np.uint16)
    return found


def near_pairs(first: Contents, second: Contents) -> Pairs:
    """Rows of two domains of images whose thumbnails agree everywhere, [K, 2]; of a domain with itself one way round.

    The perceptual hash finds candidates. Buckets of more than `MAX_BUCKET` rows, such as of blank pages, are held
    against their first rows alone.
    """
    candidates = {pair for band in range(BANDS) for pair in _same_bucket(first.hashes[:, band], second.hashes[:, band])}
    if first is second:
        candidates = {(one, other) for one, other in candidates if one < other}
    pairs = np.array(sorted(candidates), dtype=np.int64).reshape(-1, 2)
    kept = [_agree(first.thumbnails[part[:, 0]], second.thumbnails[part[:, 1]]) for part in _parts(pairs)]
    return pairs[np.concatenate(kept)] if kept else pairs


def _agree(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether two thumbnails agree everywhere: brightness at each pixel, colours at each of a few."""
    bright = _close(one.mean(axis=1, keepdims=True), other.mean(axis=1, keepdims=True))
    return bright & _close(_means(one, COARSE), _means(other, COARSE))


def _close(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    axes = (1, 2, 3)
    spread = np.minimum(np.ptp(one, axis=axes), np.ptp(other, axis=axes))
    close: NDArray[np.bool_] = (np.abs(one - other).max(axis=axes) <= MAX_DIFFERENCE * spread) & (spread >= MIN_RANGE)
    return close


def _parts(pairs: Pairs) -> Iterator[Pairs]:
    for start in range(0, len(pairs), 4096):
        yield pairs[start : start + 4096]


def _same_bucket(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> Iterator[tuple[int, int]]:
    rows: dict[int, list[int]] = {}
    for row, value in enumerate(first.tolist()):
        bucket = rows.setdefault(value, [])
        if len(bucket) < MAX_BUCKET:
            bucket.append(row)
    for row, value in enumerate(second.tolist()):
        for other in rows.get(value, ()):
            yield other, row


def _equal(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> Pairs:
    """A row of the first for each row of the second that has an equal, [K, 2]."""
    place = {key: row for row, key in reversed(list(enumerate(first.tolist())))}
    found = [(place[key], row) for row, key in enumerate(second.tolist()) if key in place]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _keys(parts: Iterator[bytes] | Iterator[memoryview]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(part, digest_size=8).digest() for part in parts)
    return np.frombuffer(digests, dtype=np.uint64)
