"""Word vectors from a text file, as word2vec, fastText and GloVe write them."""

import gzip
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput

MAX_WORDS = 200_000
UNKNOWN = "[UNK]"
SUFFIXES = (".txt", ".vec", ".gz", ".bin", ".glove")
CASED_SHARE = 0.01

_LINES = 10_000  # whose numbers are parsed at once: 30 MB of text with 300 numbers each
_HEAD_BYTES = 2**16
_HEADER = re.compile(rb"\d+[ \t]+(\d+)")
_BOM, _GZIP, _BLANK = b"\xef\xbb\xbf", b"\x1f\x8b", b" \t\r\n"
_FORMAT = "a line is a word and its numbers, as word2vec, fastText (.vec) and GloVe write them in text"
_CONVERT = (
    "unpack an archive, take the .vec file of fastText, and convert the .bin file of word2vec with "
    "gensim.models.KeyedVectors.load_word2vec_format(FILE, binary=True).save_word2vec_format('vectors.txt')"
)


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words with a vector each.

    Attributes:
        words: In the order of the file, none twice, behind `UNKNOWN`.
        vectors: float32 [N, D], one for each word; that of `UNKNOWN` is zero.
    """

    words: tuple[str, ...]
    vectors: NDArray[np.float32]

    @property
    def is_cased(self) -> bool:
        """Whether upper-case letters tell words apart: one word in a hundred, of the file, holds some."""
        written = self.words[1:]
        return sum(word != word.lower() for word in written) >= CASED_SHARE * len(written)


@dataclass(frozen=True)
class _Entry:
    line: int
    word: str
    numbers: bytes


def is_vectors_file(name: str) -> bool:
    """Whether a name is that of a file of word vectors, there or not, and not of a folder or a model on the hub."""
    path = Path(name).expanduser()
    return not path.is_dir() and (path.suffix in SUFFIXES or (path.is_file() and path.suffix != ".json"))


def read_word_vectors(name: str, field: str) -> WordVectors:
    """The first `MAX_WORDS` words of a file, which such files sort by frequency; what was read last is kept.

    The file may begin with a line "N D", and may be compressed by gzip. Words are brought into Unicode's form NFC. Of a
    word that is there twice the first counts; a word that is empty or no UTF-8 is left out, as nothing can match it.

    Args:
        name: Path of the file.
        field: What was named, for messages.

    Raises:
        InvalidInput: If there is no such file, it is binary, or a line is not a word with as many finite numbers as the
            others have.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise InvalidInput(f"{field}={name!r} is a folder; give the path of the file of word vectors in it.")
    if not path.is_file():
        raise InvalidInput(f"{field}={name!r} is no file; give the path of a file of word vectors.")
    state = path.stat()
    return _read(path.absolute(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)  # up to 240 MB; tokenizer and backbone, and every trial of a process, ask for the same
def _read(path: Path, changed_ns: int, size_bytes: int) -> WordVectors:
    words, parts = [UNKNOWN], []
    try:
        with _opened(path) as lines:
            entries = islice(_first_of_each(_entries(path, lines)), MAX_WORDS)
            while chunk := list(islice(entries, _LINES)):
                words += [entry.word for entry in chunk]
                parts.append(_numbers(path, chunk))
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} can't be read to its end ({error}); copy or download it again.") from error
    if not parts:
        raise InvalidInput(f"{path} holds no word; {_FORMAT}.")
    zero = np.zeros((1, parts[0].shape[1]), np.float32)
    return WordVectors(tuple(words), np.concatenate([zero, *parts]))


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[bytes]]:
    """The lines of a text, unpacked."""
    with path.open("rb") as packed:
        is_gzip = packed.read(len(_GZIP)) == _GZIP
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        if b"\0" in file.read(_HEAD_BYTES):
            raise InvalidInput(f"{path} is binary, and word vectors are read from text; {_CONVERT}.")
        file.seek(0)
        yield file


def _entries(path: Path, lines: Iterable[bytes]) -> Iterator[_Entry]:
    """The words that a text can hold, with numbers that are not parsed yet, one space between two."""
    width = 0
    for number, raw in enumerate(lines, 1):
        line = raw.removeprefix(_BOM).rstrip(_BLANK) if number == 1 else raw.rstrip(_BLANK)
        if number == 1 and (header := _HEADER.fullmatch(line)):
            width = int(header[1])
        elif line:
            width = width or max(1, len(line.split()) - 1)
            word, numbers = _split(path, number, line, width)
            if word is not None:
                yield _Entry(number, word, numbers)


def _split(path: Path, number: int, line: bytes, width: int) -> tuple[str | None, bytes]:
    """Word and numbers of a line; `None` for a word that no text can hold."""
    line = line.replace(b"\t", b" ")
    word, _, numbers = line.partition(b" ")
    if not numbers or numbers.count(b" ") != width - 1:  # GloVe has words with spaces in them
        word, *rest = line.rsplit(None, width)
        word, numbers = word.strip(), b" ".join(rest)
        if len(rest) < width or (b" " in word and _is_number(word.split()[-1])):
            raise _wrong_line(path, number, f"has {_num_numbers(line)} numbers behind its word, and not {width}")
    try:
        return unicodedata.normalize("NFC", word.decode()) or None, numbers
    except UnicodeDecodeError:
        return None, numbers


def _first_of_each(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    seen = {UNKNOWN}
    for entry in entries:
        if entry.word not in seen:
            seen.add(entry.word)
            yield entry


def _numbers(path: Path, entries: Sequence[_Entry]) -> NDArray[np.float32]:
    """float32 [entries, D]."""
    rows = _parsed([entry.numbers for entry in entries])
    if rows is None:
        rows = np.array([_parsed_slowly(path, entry) for entry in entries], np.float64).astype(np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise _wrong_line(path, entries[int(finite.argmin())].line, "holds a number that is not finite")
    return rows


def _parsed(lines: Sequence[bytes]) -> NDArray[np.float32] | None:
    """float32 [lines, D] by pyarrow, three times as fast as by numpy; `None` if something is no number."""
    import pyarrow as pa
    from pyarrow import csv

    names = [str(column) for column in range(lines[0].count(b" ") + 1)]
    try:
        table = csv.read_csv(
            pa.py_buffer(b"\n".join(lines)),
            csv.ReadOptions(column_names=names),
            csv.ParseOptions(delimiter=" ", quote_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float32()), null_values=[]),
        )
    except pa.ArrowInvalid:
        return None
    rows: NDArray[np.float32] = np.stack([column.to_numpy() for column in table.columns], axis=1)
    return rows if len(rows) == len(lines) else None


def _parsed_slowly(path: Path, entry: _Entry) -> list[float]:
    wrong = next((part for part in entry.numbers.split(b" ") if not _is_number(part)), None)
    if wrong is not None:
        raise _wrong_line(path, entry.line, f"has {wrong.decode(errors='replace')!r} where a number should be")
    return [float(part) for part in entry.numbers.split(b" ")]


def _num_numbers(line: bytes) -> int:
    return sum(_is_number(part) for part in line.split()[1:])


def _is_number(part: bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _wrong_line(path: Path, number: int, said: str) -> InvalidInput:
    return InvalidInput(f"{path}, line {number} {said}; {_FORMAT}. Mend or delete the line.")
