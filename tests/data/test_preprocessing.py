"""From the bytes of an image to the array a network takes."""

import io

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_the_central_square_is_kept():
    stripes = np.zeros((16, 48), np.uint8)
    stripes[:, 16:32] = 255
    assert (Preprocessing(image_size=16, channels=1).decode(png(Image.fromarray(stripes))) == 255).all()


def test_an_image_of_the_right_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(Preprocessing(image_size=16).from_image(Image.fromarray(pixels)), pixels.transpose(2, 0, 1))


def test_transparency_becomes_white():
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert (Preprocessing(image_size=16).decode(png(clear)) == 255).all()


def test_a_thin_image_takes_no_more_memory_than_its_square():
    """Scaled whole, it would have 1024 times ten thousand million pixels."""
    thin = Image.new("L", (10_000_000, 1), 7)
    assert (Preprocessing(image_size=1024, channels=1).from_image(thin) == 7).all()


def test_bytes_that_are_no_image_are_refused():
    with pytest.raises(InvalidInput, match=r"not a readable image: it is not PNG, JPEG"):
        Preprocessing().decode(b"hello")


def test_a_truncated_image_is_refused():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(InvalidInput, match="not a readable image"):
        Preprocessing().decode(png(Image.fromarray(pixels))[:2000])


def test_an_image_with_too_many_pixels_is_refused_undecoded():
    with pytest.raises(InvalidInput, match="8000x8000 pixels, over the limit"):
        Preprocessing().decode(png(Image.new("1", (8000, 8000))))
