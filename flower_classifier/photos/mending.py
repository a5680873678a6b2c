"""Damaged photos that are whole enough, opened as far as they go, as browsers show them; a warning counts them.

A JPEG without its last bytes gets the mark that ends one, and the decoder fills what is missing with grey. A PNG loses
chunks with a wrong checksum that no picture needs, such as texts. Pillow would do so by a global setting
(LOAD_TRUNCATED_IMAGES), for the whole process, and without saying how much is missing.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from flower_classifier.base.messages import counted, first_few, warn

# Share of a JPEG's rows that must be there. Of 408 photos of flowers, 94.4 % were named rightly as a whole, 94.1 % with
# 90 % of their rows, and 92.4 % with 85 % (docs/measurements.md)
LEAST_WHOLE = 0.9
JPEG_BEGINNING, JPEG_END, JPEG_SCAN = b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda"
FREQUENCIES = 64  # of a JPEG's blocks
PNG_BEGINNING = b"\x89PNG\r\n\x1a\n"
FILLED = (127, 128)  # what a JPEG decoder fills all channels with; one of them where it is CMYK, inverted

damages: dict[str, str] = {}  # damaged photos that were opened since the last warning -> what is wrong with them


def mend(data: bytes, error: Exception) -> bytes | None:
    """Return a file's contents as they may be opened after this error; None where nothing can be done."""
    if data.startswith(JPEG_BEGINNING) and "truncated" in str(error):
        return data + JPEG_END
    if data.startswith(PNG_BEGINNING):
        return without_damaged_extras(data)
    return None


def damage_of(image: Image.Image, data: bytes) -> str:
    """Say what is wrong with a mended picture, decoded from `data`. Raises ValueError where too much is missing."""
    if image.format == "PNG":
        return "a wrong checksum"
    if image.info.get("progressive") and not has_details(data):
        raise ValueError("it is truncated: all but its coarse outlines is missing")
    share = share_of_rows(image)
    if share < LEAST_WHOLE:
        raise ValueError(f"it is truncated: {share:.0%} of the picture is there")
    return f"its last bytes are missing, {1 - share:.0%} of the picture"


def share_of_rows(image: Image.Image) -> float:
    """Return the share of a JPEG's rows above those at its end that the decoder has filled with grey."""
    pixels = np.asarray(image).reshape(image.height, -1)
    is_filled = ((pixels >= FILLED[0]) & (pixels <= FILLED[1])).all(axis=1)
    decoded = np.flatnonzero(~is_filled)
    return (int(decoded[-1]) + 1) / image.height if len(decoded) else 0.0


def has_details(data: bytes) -> bool:
    """Say whether a progressive JPEG has all frequencies of its brightness, if not to the last bit, in whole scans.

    The first of its scans holds the mean of each block of 8 x 8 pixels alone: half of the flowers were named wrongly.
    The last scan that has begun does not count: it is cut. ITU-R T.81, section B.2.3, says how a scan begins.
    """
    position = data.index(JPEG_BEGINNING) + 2
    while data[position : position + 2] not in (JPEG_SCAN, b""):  # past segments: a thumbnail may have scans, too
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    there: set[int] = set()
    brightness = data[position + 5 : position + 6]  # the first component of the first scan
    while (following := data.find(JPEG_SCAN, position + 2)) >= 0:
        count = data[position + 4]
        components, (first, last) = data[position + 5 :][: 2 * count : 2], data[position + 5 + 2 * count :][:2]
        if brightness in components:
            there.update(range(first, last + 1))
        position = following
    return len(there) == FREQUENCIES


def without_damaged_extras(data: bytes) -> bytes | None:
    """Return a PNG's contents less the chunks with a wrong checksum that pictures do without; None for none of them."""
    good, position = [data[: len(PNG_BEGINNING)]], len(PNG_BEGINNING)
    while position + 12 <= len(data):  # length, name, contents, checksum
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        name, contents, checksum = data[position + 4 : position + 8], data[position + 4 : end - 4], data[end - 4 : end]
        is_extra = name[:1].islower()  # PNG 1.2, section 3.3: upper case is for what every reader needs
        if not is_extra or zlib.crc32(contents).to_bytes(4, "big") == checksum:
            good.append(data[position:end])
        position = end
    whole = b"".join([*good, data[position:]])
    return whole if len(whole) < len(data) else None


@contextlib.contextmanager
def counting_damaged() -> Iterator[None]:
    """Warn at the end of the damaged photos that were opened meanwhile, if all went well."""
    damages.clear()
    yield
    warn_of_damaged()


def warn_of_damaged() -> None:
    """Warn, in one line, of the damaged photos that were opened since the last such warning."""
    if photos := sorted(damages):
        listed = first_few([f"{photo}: {damages.pop(photo, '')}" for photo in photos])
        went = "is damaged: opened as far as it goes" if len(photos) == 1 else "are damaged: opened as far as they go"
        warn(f"{counted(len(photos), 'photo')} {went} ({listed})")
