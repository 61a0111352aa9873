"""From an open image to a square of 8-bit pixels: what each mode of Pillow means, worked off a strip at a time."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ray_tl.errors import InvalidInput

# One row for each mode that Pillow's decoders give for `READ_FORMATS`: black is 0, white is what stands here.
WHITE = {
    "1": 1, "L": 255, "P": 255, "RGB": 255, "RGBX": 255, "CMYK": 255, "YCbCr": 255,
    "LA": 255, "La": 255, "PA": 255, "RGBA": 255, "RGBa": 255,
    "I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "I": 65535,
    "F": 1.0,
}  # fmt: skip
REFUSED = {"LAB": "CIE L*a*b* colours", "HSV": "HSV colours"}

_WIDE = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_CHANNELS = (1, 3, 4)
_SLACK = 1e-3  # of white: what resampling in floats may overshoot
_STRIP_PIXELS = 1 << 20
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 262, 274, 338, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (5, 6, 7, 8)

Narrow = Callable[[Image.Image], Image.Image]


def upright_square(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """The central square of an image, upright by its EXIF orientation, scaled, over white; [size, size, channels].

    Beside the decoded image it takes the memory of a strip and of `size` rows or columns of the square.

    Args:
        image: Of any mode in `WHITE`.
        size: Of the result, in pixels.
        channels: 1 for grey, 3 for colour.

    Raises:
        InvalidInput: For another mode, or pixels outside of what their mode may hold.
    """
    image.load()
    orientation = _orientation(image)
    square = _scaled(image, size, _narrowing(image, channels), columns_first=orientation in _LYING)
    upright = square.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else square
    pixels = _over_white(np.asarray(upright)) if upright.mode == "RGBa" else np.asarray(upright)
    return _with_channels(pixels, channels)


def grey_levels(values: NDArray[np.generic], white: float) -> NDArray[np.uint8]:
    """Values from 0 to `white` as levels from 0 to 255.

    Raises:
        InvalidInput: If a value is outside, or not a number.
    """
    low, high = float(values.min()), float(values.max())
    slack = _SLACK if values.dtype.kind == "f" else 0.0
    if not (-slack * white <= low and high <= (1 + slack) * white):  # false for what is not a number, too
        raise InvalidInput(
            f"its pixels go from {low:g} to {high:g}, and such an image may hold 0 to {white:g}; scale them, or save "
            "it with 8 bits a channel."
        )
    return np.rint(np.clip(values.astype(np.float32) / white, 0, 1) * 255).astype(np.uint8)


def image_of_array(values: NDArray[np.generic]) -> Image.Image:
    """Pixels [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, as an image of 8 bits a channel.

    Raises:
        InvalidInput: If it has another shape, or pixels outside of 0..255 (whole numbers), 0..65535 (uint16) or 0..1.
    """
    if values.ndim == 3 and values.shape[2] not in _CHANNELS and values.shape[0] in _CHANNELS:
        values = values.transpose(1, 2, 0)
    if not values.size or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in _CHANNELS):
        raise InvalidInput(
            f"is an array of shape {list(values.shape)}; give [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels"
        )
    if values.dtype.kind not in "buif":
        raise InvalidInput(f"is an array of {values.dtype}; give numbers")
    is_wide = values.dtype.kind == "u" and values.dtype.itemsize == 2
    white = {"b": 1.0, "f": 1.0}.get(values.dtype.kind, 65535.0 if is_wide else 255.0)
    levels = grey_levels(values, white)
    return Image.fromarray(levels[:, :, 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels)


def _orientation(image: Image.Image) -> int:
    """As EXIF or XMP state it, 1 to 8; damaged metadata state nothing, as in any viewer."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser raises many kinds on damaged metadata
        return 1


def _scaled(image: Image.Image, size: int, narrow: Narrow, columns_first: bool) -> Image.Image:
    """The central square, `size` pixels wide and high, bilinear, as Pillow scales: rows, then columns.

    An image that lies on its side is scaled the other way round, so that it gives exactly what it would give upright.
    """
    side = min(image.size)
    starts = [(length - side) / 2 for length in image.size]
    margin = math.ceil(side / size) + 1  # pixels outside of the square that its border is mixed from
    low = [max(0, math.floor(start) - margin) for start in starts]
    high = [min(length, math.ceil(start + side) + margin) for start, length in zip(starts, image.size, strict=True)]
    first = 1 if columns_first else 0
    second = 1 - first
    half: Image.Image | None = None
    for begin, end in _strips(low[second], high[second], high[first] - low[first]):
        box = (low[0], begin, high[0], end) if second else (begin, low[1], end, high[1])
        strip = _scaled_along(first, narrow(image.crop(box)), size, starts[first] - low[first], side)
        if half is None:
            length = high[second] - low[second]
            half = Image.new(strip.mode, (size, length) if second else (length, size))
        done = begin - low[second]
        half.paste(strip, (0, done) if second else (done, 0))
    assert half is not None
    return _scaled_along(second, half, size, starts[second] - low[second], side)


def _scaled_along(axis: int, strip: Image.Image, size: int, start: float, side: int) -> Image.Image:
    """One axis scaled: what lies between `start` and `start + side` becomes `size` pixels."""
    shape, box = list(strip.size), [0.0, 0.0, *map(float, strip.size)]
    shape[axis], box[axis], box[axis + 2] = size, start, start + side
    return strip.resize((shape[0], shape[1]), Image.Resampling.BILINEAR, (box[0], box[1], box[2], box[3]))


def _strips(begin: int, end: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _STRIP_PIXELS // width)
    for start in range(begin, end, step):
        yield start, min(start + step, end)


def _narrowing(image: Image.Image, channels: int) -> Narrow:
    """From a part of the image to 8-bit grey (L), colour (RGB), or colour times opacity (RGBa)."""
    if image.mode not in WHITE:
        what = REFUSED.get(image.mode, f"pixels of mode {image.mode!r}")
        raise InvalidInput(f"it holds {what}, which are not read; convert it to RGB.")
    if image.mode in _WIDE:
        return partial(_narrowed, white=_white(image), inverted=_is_inverted(image))
    if image.mode == "RGBA" and _EXTRA_SAMPLES not in getattr(image, "tag_v2", {_EXTRA_SAMPLES: 2}):
        return lambda part: part.convert("L" if channels == 1 else "RGB")  # a band, of which no one says it is opacity
    if image.mode in _ALPHA or "transparency" in image.info:
        return _with_opacity
    grey = channels == 1 or image.mode in ("1", "L")
    return lambda part: part.convert("L" if grey else "RGB")


def _white(image: Image.Image) -> float:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if image.mode == "I" and bits == 16 and tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
        return 32767.0
    return float(2**bits - 1) if image.mode.startswith("I;16") and bits < 16 else float(WHITE[image.mode])


def _is_inverted(image: Image.Image) -> bool:
    """Of a TIFF where 0 is white, which Pillow applies to 8 bits alone."""
    return bool(getattr(image, "tag_v2", {}).get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO)


def _narrowed(part: Image.Image, white: float, inverted: bool) -> Image.Image:
    values = np.asarray(part)
    levels = grey_levels(values, white)
    grey = Image.fromarray(255 - levels if inverted else levels)
    transparent = part.info.get("transparency")
    if transparent is None:
        return grey
    opacity = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return _with_opacity(Image.merge("LA", (grey, opacity)))


def _with_opacity(part: Image.Image) -> Image.Image:
    if part.mode == "RGBa":
        return part
    clear = part.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of a PNG with 16 bits a channel, of which Pillow keeps the high
        part.info["transparency"] = tuple(value >> 8 for value in clear)
    return (part.convert("LA") if part.mode == "La" else part).convert("RGBA").convert("RGBa")


def _over_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour times opacity, [H, W, 4], on white paper, [H, W, 3]."""
    return np.minimum(pixels[..., :3].astype(np.int16) + 255 - pixels[..., 3:], 255).astype(np.uint8)


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if pixels.ndim == 3 and channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], channels, axis=2)
    return pixels
