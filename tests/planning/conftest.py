import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    """Twelve labelled images, of which two a class are held out, and six without labels."""
    for number in range(18):
        folder = tmp_path / ("target" if number >= 12 else f"source/{'ab'[number % 2]}")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(tmp_path / "source"), str(tmp_path / "target")
