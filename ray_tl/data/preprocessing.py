"""From the bytes of an image to the array a network takes: the same at training and at serving."""

import io
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from ray_tl.data.text import TextPreprocessing
from ray_tl.errors import InvalidInput

MAX_PIXELS = 50_000_000


class Preprocessing(BaseModel):
    """Decode, composite over white, scale the central square.

    Attributes:
        image_size: Side of the square result, in pixels.
        channels: 1 for grey, 3 for colour.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["images"] = "images"
    image_size: int = Field(default=96, ge=8, le=1024)
    channels: int = 3

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Image bytes (PNG, JPEG, WebP, GIF, BMP) to uint8 [channels, image_size, image_size].

        Raises:
            InvalidInput: If the bytes are no readable image, or one of over `MAX_PIXELS`.
        """
        try:
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(
                    f"image is {image.width}x{image.height} pixels, over the limit of {MAX_PIXELS}; scale it down."
                )
            image.load()
        except InvalidInput:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds on hostile bytes
            reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
            raise InvalidInput(f"not a readable image ({reason}); send PNG, JPEG, WebP, GIF or BMP.") from error
        return self.from_image(image)

    def from_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """As `decode`, for an image that is already open."""
        size = self.image_size
        flat = _over_white(image).convert("L" if self.channels == 1 else "RGB")
        side = min(flat.size)
        left, top = (flat.width - side) / 2, (flat.height - side) / 2
        # One step: scaling all of an image one pixel high before cropping it would take gigabytes.
        square = flat.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        pixels = np.asarray(square, dtype=np.uint8)
        return np.ascontiguousarray(pixels.reshape(size, size, self.channels).transpose(2, 0, 1))


def _modality(value: object) -> str:
    """Of a record or its content; records of images had no such field once."""
    stated = value.get("modality") if isinstance(value, dict) else getattr(value, "modality", None)
    return "images" if stated is None else str(stated)


AnyPreprocessing = Annotated[
    Annotated[Preprocessing, Tag("images")] | Annotated[TextPreprocessing, Tag("text")], Discriminator(_modality)
]


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
