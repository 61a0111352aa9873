"""Predict files on this machine, without Ray."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.promotion.bundle import BATCH_SIZE, Bundle, load_bundle
from ray_tl.promotion.prediction import Prediction
from ray_tl.promotion.versions import resolve

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})


@dataclass(frozen=True)
class FilePrediction:
    """The answer for one file."""

    file: Path
    label: str
    confidence: float
    probabilities: dict[str, float]
    version: str


def predict(model: str, files: Sequence[Path], root: Path) -> list[FilePrediction]:
    """One answer for each file, in order; a folder stands for all images in it, at any depth.

    Args:
        model: `NAME`, `NAME@v2`, or a path to a version folder.
        files: Images, or folders with images.
        root: Where models are kept.

    Raises:
        InvalidInput: If a file is missing, which is found before anything is loaded, or is no readable image.
        UnknownName: If there is no such model.
        BrokenBundle: If the version is not what was promoted.
    """
    images = images_of(files)
    bundle = load_bundle(resolve(model, root))
    chunks = (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
    return [answer for chunk in chunks for answer in _predict_chunk(bundle, chunk)]


def images_of(files: Iterable[Path]) -> list[Path]:
    """The files, with every folder replaced by the images in it, sorted.

    Raises:
        InvalidInput: If files are missing or folders have no image; all of them are named.
    """
    found = {path: list(_images_in(path)) for path in files}
    problems = [_why_empty(path) for path, images in found.items() if not images]
    if problems:
        raise all_at_once("files", problems)
    return [image for images in found.values() for image in images]


def _images_in(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from sorted(inside for inside in path.rglob("*") if inside.suffix.lower() in SUFFIXES)


def _why_empty(path: Path) -> str:
    if path.is_dir():
        return f"{path} has no image in it; images end in {', '.join(sorted(SUFFIXES))}."
    return f"{path} does not exist; give images, or folders with images."


def _predict_chunk(bundle: Bundle, files: Sequence[Path]) -> list[FilePrediction]:
    arrays = np.stack([_decode(bundle, file) for file in files])
    return [_of_file(file, answer) for file, answer in zip(files, bundle.predict_arrays(arrays), strict=True)]


def _decode(bundle: Bundle, file: Path) -> NDArray[np.uint8]:
    try:
        return bundle.spec.preprocessing.decode(file.read_bytes())
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from error


def _of_file(file: Path, answer: Prediction) -> FilePrediction:
    return FilePrediction(file, answer.label, answer.confidence, answer.probabilities, answer.version)
