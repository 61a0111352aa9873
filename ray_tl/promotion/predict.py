"""Predict files on this machine, without Ray."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_tl.data.addresses import Address
from ray_tl.data.files import find_images
from ray_tl.data.formats import READ_FORMATS_IN_WORDS
from ray_tl.data.reading import OnBroken
from ray_tl.data.tables import is_table_at, read_columns
from ray_tl.data.text import why_no_text
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.promotion.bundle import BATCH_SIZE, Bundle, load_bundle
from ray_tl.promotion.prediction import Prediction
from ray_tl.promotion.versions import resolve

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilePrediction:
    """The answer for one example.

    Attributes:
        file: That it is in; `None` for a text that was given as such.
        row: Its number in a table, counted from 1.
        text: That was given as such.
    """

    file: Path | None
    label: str
    confidence: float
    probabilities: dict[str, float]
    version: str
    row: int | None = None
    text: str | None = None

    @property
    def name(self) -> str:
        """What a person may call the example."""
        if self.text is not None:
            return self.text
        return str(self.file) if self.row is None else f"{self.file}:{self.row}"


def predict(
    model: str,
    files: Sequence[Path],
    root: Path,
    texts: Sequence[str] = (),
    text_column: str = "text",
    on_broken: OnBroken = "stop",
) -> list[FilePrediction]:
    """One answer for each example, in order, those of `texts` last.

    Args:
        model: `NAME`, `NAME@v2`, or a path to a version folder.
        files: For a model of images: images, or folders that stand for all images in them, at any depth. For a model of
            texts: tables, each row of which is an example, or files that end in `.txt`, each of which is one.
        root: Where models are kept.
        texts: For a model of texts.
        text_column: Of tables.
        on_broken: Examples that can't be read: name them in one error, or leave them out and log them.

    Raises:
        InvalidInput: If a file is missing, which is found before anything is loaded; if an example can't be read, or is
            none of what the model reads.
        UnknownName: If there is no such model.
        BrokenBundle: If the version is not what was promoted.
    """
    if missing := [path for path in files if not path.exists()]:
        raise all_at_once("files", [_why_empty(path) for path in missing])
    are_texts = bool(texts) or any(_holds_text(path) for path in files)
    images = [] if are_texts else images_of(files, on_broken)
    bundle = load_bundle(resolve(model, root))
    _require_modality(bundle, "text" if are_texts else "images")
    if are_texts:
        return _predict_texts(bundle, files, texts, text_column, on_broken)
    chunks = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
    return [answer for chunk in chunks for answer in _predict_chunk(bundle, chunk, on_broken)]


def images_of(files: Iterable[Path], on_broken: OnBroken = "stop") -> list[Path]:
    """The files, with every folder replaced by the images in it, sorted.

    Raises:
        InvalidInput: If files are missing or folders have no image; all of them are named.
    """
    found = {path: _images_in(path, on_broken) for path in files}
    problems = [_why_empty(path) for path, images in found.items() if not images]
    if problems:
        raise all_at_once("files", problems)
    return [image for images in found.values() for image in images]


def _images_in(path: Path, on_broken: OnBroken) -> list[Path]:
    """The file itself, or what a search would read of a folder."""
    if not path.is_dir():
        return [path] if path.exists() else []
    found = find_images(_address(path))
    if found.problems:
        raise all_at_once(str(path), found.problems)
    _set_aside({f"{path / name}:": why for name, why in found.broken.items()}, on_broken)
    return [path / name for name in found.images]


def _address(path: Path) -> Address:
    """Of a file whose name means nothing else, whatever letter it begins with."""
    return Address.of(os.path.abspath(path), "files")


def _why_empty(path: Path) -> str:
    if path.is_dir():
        return f"{path} has no image in it; images are {READ_FORMATS_IN_WORDS}."
    return f"{path} does not exist; give images, or folders with images."


def _holds_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt" or is_table_at(_address(path))


def _require_modality(bundle: Bundle, given: str) -> None:
    reads = bundle.spec.preprocessing.modality
    if reads != given:
        remedy = "give --text, tables or .txt files" if reads == "text" else "give images, or folders with images"
        raise InvalidInput(f"this model reads {reads}, and was given {given}; {remedy}.")


def _predict_texts(
    bundle: Bundle, files: Sequence[Path], texts: Sequence[str], text_column: str, on_broken: OnBroken
) -> list[FilePrediction]:
    found: list[tuple[Path | None, int | None, str]] = [
        (path, row, text) for path in files for row, text in _texts_in(path, text_column, on_broken)
    ]
    found += [(None, None, text) for text in texts]
    if on_broken == "skip":
        _set_aside(
            {f"{path or '--text'}:{row}": why for path, row, text in found if (why := why_no_text(text))}, on_broken
        )
        found = [each for each in found if why_no_text(each[2]) is None]
    _require_words(found)
    answers = bundle.predict_images([text.encode() for _, _, text in found])
    return [
        FilePrediction(
            path, answer.label, answer.confidence, answer.probabilities, answer.version, row, text if not path else None
        )
        for (path, row, text), answer in zip(found, answers, strict=True)
    ]


def _texts_in(path: Path, column: str, on_broken: OnBroken) -> list[tuple[int | None, str]]:
    if not _holds_text(path):
        raise InvalidInput(f"{path} is neither a table nor a .txt file; a model of texts reads those.")
    if path.suffix.lower() != ".txt":
        columns = read_columns(_address(path), [column], "file")
        _set_aside({f"{path}:{row}": why for row, why in columns.broken.items()}, on_broken)
        return list(zip(columns.rows, [str(cell or "") for cell in columns.cells[column]], strict=True))
    try:
        return [(None, path.read_text(encoding="utf-8"))]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not a text in UTF-8 ({error}); convert it.") from error


def _require_words(found: Sequence[tuple[Path | None, int | None, str]]) -> None:
    problems = [
        f"{path or '--text'}{'' if row is None else f':{row}'} {reason}."
        for path, row, text in found
        if (reason := why_no_text(text))
    ]
    if problems:
        raise all_at_once("texts", problems)


def _predict_chunk(bundle: Bundle, files: Sequence[Path], on_broken: OnBroken) -> list[FilePrediction]:
    arrays: dict[Path, np.ndarray] = {}
    broken: dict[str, str] = {}
    for file in files:
        try:
            arrays[file] = bundle.spec.preprocessing.decode(_address(file).read())
        except InvalidInput as error:
            broken[f"{file}:"] = str(error)
    _set_aside(broken, on_broken)
    if not arrays:
        return []
    answers = bundle.predict_arrays(np.stack(list(arrays.values())))
    return [_of_file(file, answer) for file, answer in zip(arrays, answers, strict=True)]


def _set_aside(broken: Mapping[str, str], on_broken: OnBroken) -> None:
    """Raise one error that names these files, or say on the log that they are left out."""
    if broken and on_broken == "stop":
        lines = [
            f"{name} {why.rstrip('.')}; repair it, or leave it out: --on-broken skip." for name, why in broken.items()
        ]
        raise all_at_once("files", lines)
    for name, why in broken.items():
        _log.warning("left out %s %s", name, why)


def _of_file(file: Path, answer: Prediction) -> FilePrediction:
    return FilePrediction(file, answer.label, answer.confidence, answer.probabilities, answer.version)
