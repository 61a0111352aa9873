"""How data were read by the first reader, kept so that its promoted versions answer as before and its studies resume.

Nothing new is read this way: a new study and a new record state `reader_version` 2.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})


def square_of_version_1(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """The central square over white, [size, size, channels]; no EXIF orientation, 16 bits by each image's maximum."""
    flat = _over_white(image).convert("L" if channels == 1 else "RGB")
    side = min(flat.size)
    left, top = (flat.width - side) / 2, (flat.height - side) / 2
    square = flat.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square, dtype=np.uint8).reshape(size, size, channels)


def images_of_version_1(folder: Path) -> list[str]:
    """Relative POSIX paths of images by their suffix, following every link."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(here) / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def label_of_version_1(cell: object) -> str | None:
    return None if cell in (None, "") else str(cell)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white
    if image.mode in ("I;16", "I"):
        depth = np.asarray(image, dtype=np.float32)
        return Image.fromarray((depth / max(1.0, float(depth.max())) * 255).astype(np.uint8))
    return image
