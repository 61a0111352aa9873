"""What a file holds, told by its first bytes and not by its name."""

import re

HEAD_BYTES = 512
READ_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # Pillow's names; all that ever reaches a decoder
READ_FORMATS_IN_WORDS = "PNG, JPEG, WebP, GIF, BMP, TIFF or PNM"
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "png apng jpg jpeg jpe jfif webp gif bmp dib tif tiff pbm pgm ppm pnm pfm",
        "avif heic heif jp2 jxl psd eps ico svg dcm exr hdr tga cr2 nef dng",
    )
    for name in names.split()
)
"""Of files that are meant to be images: one that can't be read is a mistake to report, and not another kind of file."""

_READ = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF.{4}WEBP",
    "GIF": rb"GIF8[79]a",
    # Two letters begin many a text: the size of the second header is one of a few.
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
    "TIFF": rb"II(\x2a\x00|\x00\x2a|\x2b\x00)|MM(\x00\x2a|\x2a\x00|\x00\x2b)",
    "PPM": rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d+\s|P[Ff]\s+\d+\s+\d+\s",
}
_NOT_READ = {
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIF": rb".{4}ftyp(hei|hev|mif|msf)",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
    "Photoshop": rb"8BPS",
    "PostScript": rb"%!PS|\xc5\xd0\xd3\xc6",
    "an icon": rb"\x00\x00\x01\x00[^\x00]",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?<svg\b",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?RADIANCE",
}


def image_format(head: bytes) -> str | None:
    """Pillow's name of the format that a file with these first `HEAD_BYTES` has; `None` if it is none that is read."""
    return _named(_READ, head)


def other_image_format(head: bytes) -> str | None:
    """The name of an image format that is not read; `None` if it is none, or one of `READ_FORMATS`."""
    return _named(_NOT_READ, head)


def why_not_read(head: bytes) -> str:
    """Why a file with these first bytes is no image that is read, as a sentence without its subject."""
    if not head:
        return "is empty"
    if kind := image_format(head):
        return f"is {kind} that is damaged, or of a kind that is not read; save it as PNG with 8 bits a channel"
    other = other_image_format(head)
    if other is None:
        return f"is not {READ_FORMATS_IN_WORDS}"
    return f"is {other}, which is not read; convert it to PNG or JPEG"


def _named(signatures: dict[str, bytes], head: bytes) -> str | None:
    return next((name for name, start in signatures.items() if re.match(start, head, re.DOTALL)), None)
