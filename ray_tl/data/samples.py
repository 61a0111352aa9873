"""Two small folders of images to try a search on, before one's own are at hand."""

from pathlib import Path

import numpy as np
from PIL import Image

from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.domains import LabelledDomain
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.files import naming, removed_on_failure


def write_sample_folders(folder: Path, per_class: int) -> tuple[Path, Path]:
    """Write MNIST digits in class folders, and optdigits in one flat folder, as PNG files.

    Args:
        folder: Gets the folders `source` and `target`; must not have them yet.
        per_class: Images of each digit in each of the two.

    Returns:
        The two folders.

    Raises:
        InvalidInput: If one of them exists.
    """
    source, target = folder / "source", folder / "target"
    for path in (source, target):
        if path.exists():
            raise InvalidInput(f"folder={str(folder)!r} holds {path.name!r} already; name another one.")
    mnist = load_mnist_5k(Preprocessing(image_size=28, channels=1))
    optdigits = load_optdigits(Preprocessing(image_size=8, channels=1))
    with removed_on_failure(source, target):
        for row in _some_of_each(mnist, per_class):
            _save(mnist.inputs[row], source / mnist.classes[mnist.labels[row]] / f"{mnist.ids[row]}.png")
        for row in _some_of_each(optdigits, per_class):
            _save(optdigits.inputs[row], target / f"{optdigits.ids[row]}.png")
    return source, target


def _some_of_each(domain: LabelledDomain, count: int) -> list[int]:
    return [int(row) for label in range(len(domain.classes)) for row in np.flatnonzero(domain.labels == label)[:count]]


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        Image.fromarray(image[0]).save(path)
