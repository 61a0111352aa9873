"""From the bytes of a table of text to the text."""

import codecs
import gzip
import zlib

from ray_tl.errors import InvalidInput

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def unpacked(data: bytes, subject: str) -> bytes:
    """What gzip has packed.

    Raises:
        InvalidInput: If it is damaged, or not packed by gzip.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{subject} can't be unpacked ({error}); pack it with gzip again.") from error


def decoded(data: bytes, subject: str) -> str:
    """UTF-8, or UTF-16 with the mark that spreadsheets write, to text.

    Raises:
        InvalidInput: For another encoding; the message has the first byte that does not fit.
    """
    try:
        return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        byte, line = f"0x{data[error.start]:02x}", data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"{subject} has the byte {byte} in line {line}, which is not UTF-8; save it as UTF-8."
        ) from error
