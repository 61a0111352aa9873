"""From the bytes of an image to the array a network takes: the same at training and at serving."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from ray_tl.data.formats import HEAD_BYTES, READ_FORMATS, READ_FORMATS_IN_WORDS, why_not_read
from ray_tl.data.legacy import square_of_version_1
from ray_tl.data.pixels import image_of_array, upright_square
from ray_tl.data.text import TextPreprocessing
from ray_tl.errors import InvalidInput

MAX_PIXELS = 50_000_000
LARGE = 8_000_000  # pixels; of larger images one at a time is decoded, whatever the number of threads
ReaderVersion = Literal[1, 2]
READER_VERSION: ReaderVersion = 2

_large = threading.Lock()


class Preprocessing(BaseModel):
    """Decode, turn upright, scale the central square, put it on white.

    Attributes:
        image_size: Side of the square result, in pixels.
        channels: 1 for grey, 3 for colour.
        reader_version: Rules by which a file becomes pixels. 2 is `ray_tl.data.pixels`; 1 is what versions promoted
            before had: no EXIF orientation, 16-bit grey stretched to its own maximum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["images"] = "images"
    image_size: int = Field(default=96, ge=8, le=1024)
    channels: int = 3
    reader_version: ReaderVersion = READER_VERSION

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Image bytes in one of `READ_FORMATS` to uint8 [channels, image_size, image_size].

        Raises:
            InvalidInput: If the bytes are no readable image, one of over `MAX_PIXELS`, or of pixels that no rule says
                the range of.
        """
        try:
            image = Image.open(io.BytesIO(data), formats=READ_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(
                    f"image is {image.width}x{image.height} pixels, over the limit of {MAX_PIXELS}; scale it down."
                )
            with _few_large(image):
                image.load()
                return self.from_image(image)
        except InvalidInput:
            raise
        except UnidentifiedImageError as error:
            raise InvalidInput(f"not a readable image: it {why_not_read(data[:HEAD_BYTES])}.") from error
        except Exception as error:  # Pillow's decoders raise many kinds on hostile bytes
            raise InvalidInput(f"not a readable image ({error}); send {READ_FORMATS_IN_WORDS}.") from error

    def from_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """As `decode`, for an image that is already open."""
        square = square_of_version_1 if self.reader_version == 1 else upright_square
        pixels = square(image, self.image_size, self.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def from_array(self, values: NDArray[np.generic]) -> NDArray[np.uint8]:
        """As `decode`, for the pixels of one image, [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels.

        White is 255 for whole numbers, 65535 for uint16, 1 for floats and truth values.

        Raises:
            InvalidInput: If it has another shape, or pixels outside of this range.
        """
        return self.from_image(image_of_array(values))


def as_recorded(record: object) -> object:
    """A record on disk with what it did not state before there was a choice: it was written by the first reader."""
    if not isinstance(record, dict) or record.get("modality", "images") != "images":
        return record
    return {"reader_version": 1, **record}


def _modality(value: object) -> str:
    """Of a record or its content; records of images had no such field once."""
    stated = value.get("modality") if isinstance(value, dict) else getattr(value, "modality", None)
    return "images" if stated is None else str(stated)


AnyPreprocessing = Annotated[
    Annotated[Preprocessing, Tag("images")] | Annotated[TextPreprocessing, Tag("text")],
    Discriminator(_modality),
    BeforeValidator(as_recorded),
]


@contextmanager
def _few_large(image: Image.Image) -> Iterator[None]:
    if image.width * image.height <= LARGE:
        yield
        return
    with _large:
        yield
