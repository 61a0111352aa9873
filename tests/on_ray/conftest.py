"""Domains for real searches."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Red and blue squares in class folders, and darker ones without labels."""
    random = np.random.default_rng(0)
    for name, channel in (("red", 0), ("blue", 2)):
        for number in range(40):
            for domain, light in (("source", 230), ("target", 120)):
                pixels = random.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                pixels[4:12, 4:12, channel] = light
                folder = tmp_path / domain / (name if domain == "source" else "unlabelled")
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{name}-{number}.png")
    return tmp_path / "source", tmp_path / "target"
