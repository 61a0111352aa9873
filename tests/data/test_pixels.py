"""What each of Pillow's modes becomes, upright and over white, in bounded memory."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import BmpImagePlugin, Image, ImageOps, PngImagePlugin, PpmImagePlugin, TiffImagePlugin

from ray_tl.data.pixels import REFUSED, WHITE
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput

GREY, COLOUR = Preprocessing(image_size=8, channels=1), Preprocessing(image_size=8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(mode: str, value) -> Image.Image:
    return Image.new(mode, (8, 8), value)


def tiff(bits: int, photometric: int, data: bytes) -> bytes:
    """A grey TIFF of 8x8 pixels, by the specification of TIFF 6.0, sections 3 and 4."""
    tags = [(256, 8), (257, 8), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 8)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))]]
    return (
        b"II\x2a\x00"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(entries))
        + b"".join(entries)
        + bytes(4)
    )


# orientation


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_as_exif_says(orientation, channels):
    pixels = np.random.default_rng(orientation).integers(0, 256, (30, 47, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95, exif=exif)
    preprocessing = Preprocessing(image_size=20, channels=channels)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(preprocessing.decode(data), preprocessing.from_image(upright))


def test_damaged_exif_says_nothing_of_the_orientation():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    damaged = encoded(Image.fromarray(pixels), exif=b"Exif\x00\x00II\x2a\x00\xff\xff\xff\xff")
    assert np.array_equal(GREY.decode(damaged)[0], pixels)


# modes


@pytest.mark.parametrize(
    ("data", "level"),
    [
        (encoded(flat("1", 1)), 255),
        (encoded(flat("L", 100)), 100),
        (encoded(flat("RGB", (90, 90, 90))), 90),
        (encoded(flat("CMYK", (0, 0, 0, 155)), "TIFF"), 100),
        (encoded(flat("YCbCr", (77, 128, 128)), "TIFF"), 77),
        (encoded(flat("I;16", 257 * 40)), 40),
        (encoded(flat("I;16B", 257 * 40), "TIFF"), 40),
        (encoded(flat("I", 257 * 40), "TIFF"), 40),
        (encoded(flat("F", 40 / 255), "TIFF"), 40),
        (encoded(flat("F", 1.0), "TIFF"), 255),
        (encoded(flat("I", 257 * 40), "PPM"), 40),
        (tiff(16, 1, struct.pack("<64H", *[257 * 40] * 64)), 40),
        (tiff(16, 0, struct.pack("<64H", *[257 * 40] * 64)), 255 - 40),  # 0 is white
        (tiff(12, 1, b"\xff" * 96), 255),  # 4095 of 4095
    ],
)
def test_grey_levels_keep_their_share_of_the_range_of_their_mode(data, level):
    assert GREY.decode(data).tolist() == [[[level] * 8] * 8]


def test_the_range_is_not_that_of_the_image():
    dim = np.arange(64, dtype=np.uint16).reshape(8, 8) * 257
    assert np.array_equal(GREY.decode(encoded(Image.fromarray(dim)))[0], np.arange(64).reshape(8, 8))


def test_the_transparent_level_of_16_bit_grey_is_white_and_the_others_stay():
    levels = np.full((8, 8), 257 * 40, np.uint16)
    levels[0, 0] = 1234
    decoded = GREY.decode(encoded(Image.fromarray(levels), transparency=1234))[0]
    assert decoded[0, 0] == 255
    assert (decoded.ravel()[1:] == 40).all()


def test_a_palette_has_its_colours_and_its_transparent_one_is_white():
    image = flat("P", 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((3, 2), 0)
    decoded = COLOUR.decode(encoded(image, transparency=0))
    assert decoded[:, 2, 3].tolist() == [255, 255, 255]
    assert decoded[:, 0, 0].tolist() == [200, 100, 50]


def test_what_can_not_be_seen_lends_no_colour_to_its_neighbours():
    pixels = np.zeros((8, 16, 4), np.uint8)
    pixels[:, ::2] = [255, 0, 0, 0]  # clear red beside solid black
    pixels[:, 1::2] = [0, 0, 0, 255]
    decoded = Preprocessing(image_size=8).decode(encoded(Image.fromarray(np.repeat(pixels, 2, axis=0))))
    assert np.ptp(decoded.astype(int), axis=0).max() == 0


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (flat("F", 2.5), r"pixels go from 2\.5 to 2\.5, and such an image may hold 0 to 1"),
        (flat("F", float("nan")), "pixels go from nan"),
        (flat("F", -0.5), "pixels go from -0.5"),
        (flat("I", 70000), r"go from 70000 to 70000, and such an image may hold 0 to 65535"),
        (flat("I", -3), "go from -3"),
        (flat("LAB", (9, 0, 0)), r"holds CIE L\*a\*b\* colours, which are not read; convert it to RGB"),
    ],
)
def test_pixels_without_a_stated_range_are_refused(image, said):
    with pytest.raises(InvalidInput, match=said):
        COLOUR.decode(encoded(image, "TIFF"))


def test_every_mode_that_a_decoder_gives_has_its_row():
    modes = {mode for mode, _ in TiffImagePlugin.OPEN_INFO.values()}
    modes |= {mode for mode, _ in PngImagePlugin._MODES.values()} | set(PpmImagePlugin.MODES.values())
    modes |= {mode for mode, _ in BmpImagePlugin.BIT2MODE.values()}
    assert modes <= WHITE.keys() | REFUSED.keys()


# formats


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_documented_formats_are_read(kind):
    assert abs(int(COLOUR.decode(encoded(flat("RGB", (120, 120, 120)), kind)).mean()) - 120) <= 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", "it is PostScript, which is not read"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(50), "it is HEIF, which is not read; convert it to PNG or JPEG"),
        (encoded(flat("L", 1), "ICO"), "it is an icon"),
        (encoded(flat("L", 1), "JPEG2000"), "it is JPEG 2000"),
        (b"", "it is empty"),
    ],
)
def test_other_formats_reach_no_decoder(data, said):
    with pytest.raises(InvalidInput, match=said):
        COLOUR.decode(data)


# arrays


@pytest.mark.parametrize(
    ("pixels", "level"),
    [
        (np.full((8, 8), 40, np.uint8), 40),
        (np.full((8, 8, 1), 40, np.int64), 40),
        (np.full((3, 8, 8), 40 * 257, np.uint16), 40),
        (np.full((8, 8, 3), 40 / 255, np.float64), 40),
        (np.ones((8, 8), bool), 255),
    ],
)
def test_arrays_of_one_image_in_any_layout(pixels, level):
    assert (COLOUR.from_array(pixels) == level).all()


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.full((8, 8), 300), r"go from 300 to 300, and such an image may hold 0 to 255"),
        (np.full((8, 8), 200.0), r"may hold 0 to 1"),
        (np.zeros((8, 8, 5)), r"shape \[8, 8, 5\]; give \[H, W\], \[H, W, C\] or \[C, H, W\]"),
        (np.zeros(64), r"shape \[64\]"),
    ],
)
def test_arrays_that_are_no_image_are_refused(pixels, said):
    with pytest.raises(InvalidInput, match=said):
        COLOUR.from_array(pixels)


# memory

_PEAK = """
import resource, sys
from ray_tl.data.preprocessing import Preprocessing
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = sys.stdin.buffer.read()
before = peak()
Preprocessing(image_size=96).decode(data)
print((peak() - before) * 1024)
"""


@pytest.mark.parametrize(
    ("mode", "bytes_per_pixel", "kind"), [("P", 1, "PNG"), ("I;16", 2, "PNG"), ("RGBA", 4, "PNG"), ("RGB", 4, "JPEG")]
)
def test_memory_is_that_of_one_decoded_image(mode, bytes_per_pixel, kind):
    side = 6000
    image = Image.new(mode, (side, side), 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    options = {"transparency": 3} if kind == "PNG" and mode != "RGBA" else {}
    data = encoded(image, kind, exif=exif, **options)
    done = subprocess.run([sys.executable, "-c", _PEAK], input=data, capture_output=True, check=True)
    assert int(done.stdout) < bytes_per_pixel * side * side + 60e6  # strips, and what the decoder reads


# what was written before


def test_a_record_from_before_reads_images_as_it_did():
    old = Preprocessing(image_size=8, channels=1, reader_version=1)
    dim = np.full((8, 8), 1000, np.uint16)
    dim[0, 0] = 2000
    exif = Image.Exif()
    exif[0x0112] = 3
    decoded = old.decode(encoded(Image.fromarray(dim), exif=exif))[0]
    assert (decoded[0, 0], decoded[7, 7]) == (255, 127)  # stretched to its own maximum, and not turned
