"""Predict files on this machine, without Ray."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_tl.data.addresses import Address
from ray_tl.data.files import find_images
from ray_tl.data.formats import READ_FORMATS_IN_WORDS
from ray_tl.data.tables import is_table, read_columns
from ray_tl.data.text import why_no_text
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.promotion.bundle import BATCH_SIZE, Bundle, load_bundle
from ray_tl.promotion.prediction import Prediction
from ray_tl.promotion.versions import resolve


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
    model: str, files: Sequence[Path], root: Path, texts: Sequence[str] = (), text_column: str = "text"
) -> list[FilePrediction]:
    """One answer for each example, in order, those of `texts` last.

    Args:
        model: `NAME`, `NAME@v2`, or a path to a version folder.
        files: For a model of images: images, or folders that stand for all images in them, at any depth. For a model of
            texts: tables, each row of which is an example, or files that end in `.txt`, each of which is one.
        root: Where models are kept.
        texts: For a model of texts.
        text_column: Of tables.

    Raises:
        InvalidInput: If a file is missing, which is found before anything is loaded; if an example can't be read, or is
            none of what the model reads.
        UnknownName: If there is no such model.
        BrokenBundle: If the version is not what was promoted.
    """
    if missing := [path for path in files if not path.exists()]:
        raise all_at_once("files", [_why_empty(path) for path in missing])
    are_texts = bool(texts) or any(_holds_text(path) for path in files)
    images = [] if are_texts else images_of(files)
    bundle = load_bundle(resolve(model, root))
    _require_modality(bundle, "text" if are_texts else "images")
    if are_texts:
        return _predict_texts(bundle, files, texts, text_column)
    chunks = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
    return [answer for chunk in chunks for answer in _predict_chunk(bundle, chunk)]


def images_of(files: Iterable[Path]) -> list[Path]:
    """The files, with every folder replaced by the images in it, sorted.

    Raises:
        InvalidInput: If files are missing or folders have no image; all of them are named.
    """
    found = {path: _images_in(path) for path in files}
    problems = [_why_empty(path) for path, images in found.items() if not images]
    if problems:
        raise all_at_once("files", problems)
    return [image for images in found.values() for image in images]


def _images_in(path: Path) -> list[Path]:
    """The file itself, or what a search would read of a folder; what a search calls broken is an error here too."""
    if not path.is_dir():
        return [path] if path.exists() else []
    found = find_images(Address.of(str(path), "files"))
    if problems := [*found.problems, *(f"{path / name}: {why}." for name, why in found.broken.items())]:
        raise all_at_once(str(path), problems)
    return [path / name for name in found.images]


def _why_empty(path: Path) -> str:
    if path.is_dir():
        return f"{path} has no image in it; images are {READ_FORMATS_IN_WORDS}."
    return f"{path} does not exist; give images, or folders with images."


def _holds_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt" or is_table(path.name)


def _require_modality(bundle: Bundle, given: str) -> None:
    reads = bundle.spec.preprocessing.modality
    if reads != given:
        remedy = "give --text, tables or .txt files" if reads == "text" else "give images, or folders with images"
        raise InvalidInput(f"this model reads {reads}, and was given {given}; {remedy}.")


def _predict_texts(
    bundle: Bundle, files: Sequence[Path], texts: Sequence[str], text_column: str
) -> list[FilePrediction]:
    found: list[tuple[Path | None, int | None, str]] = [
        (path, row, text) for path in files for row, text in _texts_in(path, text_column)
    ]
    found += [(None, None, text) for text in texts]
    _require_words(found)
    answers = bundle.predict_images([text.encode() for _, _, text in found])
    return [
        FilePrediction(
            path, answer.label, answer.confidence, answer.probabilities, answer.version, row, text if not path else None
        )
        for (path, row, text), answer in zip(found, answers, strict=True)
    ]


def _texts_in(path: Path, column: str) -> list[tuple[int | None, str]]:
    if not _holds_text(path):
        raise InvalidInput(f"{path} is neither a table nor a .txt file; a model of texts reads those.")
    if is_table(path.name):
        columns = read_columns(str(path), [column], "file")
        broken = [f"row {row} {why}." for row, why in columns.broken.items()]
        if broken:
            raise all_at_once(str(path), broken)
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


def _predict_chunk(bundle: Bundle, files: Sequence[Path]) -> list[FilePrediction]:
    arrays = np.stack([_decode(bundle, file) for file in files])
    return [_of_file(file, answer) for file, answer in zip(files, bundle.predict_arrays(arrays), strict=True)]


def _decode(bundle: Bundle, file: Path) -> np.ndarray:
    try:
        return bundle.spec.preprocessing.decode(Address.of(str(file), "files").read())
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from error


def _of_file(file: Path, answer: Prediction) -> FilePrediction:
    return FilePrediction(file, answer.label, answer.confidence, answer.probabilities, answer.version)
