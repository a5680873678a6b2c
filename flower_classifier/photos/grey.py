"""Grey of more than 8 bits, as cameras for heat, X-rays and depth store it: from a file's values to 0…255.

A thermal camera's photos may hold 2,800 to 3,300 of 65,535 values. Scaled by what 16 bits can hold, they would be two
shades of black. So a run measures one range over its training photos (features/grey_range.py); the values in it become
0 to 255, in all photos, for good: it is part of the preprocessing. Without a range each photo is scaled by its type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

GreyRange = tuple[float, float]  # the values of a file that become 0 and 255; all below or above become these too
ALWAYS_8_BITS = (".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".heic", ".heif", ".hif", ".avif")  # as read here

# TIFF's tags, and what they say where they are missing
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED = 0, 2


@dataclass(frozen=True)
class Samples:
    """What the values of a picture in deep grey are; Pillow's mode tells less than that."""

    kind: str  # "unsigned", "signed" or "float"
    bits: int
    is_inverted: bool = False  # whether low values are bright: TIFF's WhiteIsZero

    def __str__(self) -> str:
        sign = {"unsigned": "", "signed": "signed ", "float": "floating-point "}[self.kind]
        return f"{sign}grey of {self.bits} bits"

    @property
    def limits(self) -> GreyRange | None:
        """The lowest and the highest value that there can be; None for floats."""
        if self.kind == "float":
            return None
        count = 2**self.bits
        return (0, count - 1) if self.kind == "unsigned" else (-(count // 2), count // 2 - 1)


def samples_of(image: Image.Image) -> Samples | None:
    """Return what the values of a picture are, as opened or in memory; None where 8 bits hold them."""
    mode = image.mode
    if not mode.startswith(("I", "F")):
        return None
    tags = getattr(image, "tag_v2", {})  # TIFF's
    kind, bits = "signed", 32
    if mode == "F":
        kind = "float"
    elif mode.startswith("I;16") or image.format == "PPM":  # of which Pillow makes 16 bits, whatever its maximum
        kind, bits = "unsigned", 16
    if BITS in tags and kind != "float":
        kind = "signed" if tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED else "unsigned"
        bits = tags[BITS][0]
    return Samples(kind, bits, is_inverted=tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)


def values_of(image: Image.Image, samples: Samples) -> np.ndarray:
    """Return a picture's values (H, W), more where it is brighter. Those of inverted floats are their negatives."""
    values = np.asarray(image)
    if samples.kind == "unsigned" and samples.bits == 32:
        values = values.view(np.uint32)  # Pillow has no such mode: it wraps what is above 2,147,483,647
    if not samples.is_inverted:
        return values
    lowest, highest = samples.limits or (0, 0)
    return lowest + highest - values.astype(np.int64 if samples.limits else values.dtype)


def grey_to_8_bits(image: Image.Image, samples: Samples | None, grey_range: GreyRange | None) -> Image.Image:
    """Return a picture in deep grey as one of 8 bits (mode L); any other as it is.

    Without a range, a picture whose values are as Pillow's mode says comes back too: images.py makes it smaller first,
    and then scales it `by_its_values`, as it always has.
    """
    if samples is None:
        return image
    if grey_range:
        return Image.fromarray(levels(values_of(image, samples), grey_range))
    if samples.kind == "float":
        return Image.fromarray(255 - by_its_values(np.asarray(image))) if samples.is_inverted else image
    values = values_of(image, samples)
    if samples == Samples("signed", 16) and values.min(initial=0) < 0:
        return Image.fromarray(levels(values, (-(2**15), 2**15 - 1)))
    if samples.is_inverted or samples == Samples("unsigned", 32):
        return Image.fromarray(by_its_values(values))
    return image


def levels(values: np.ndarray, grey_range: GreyRange) -> np.ndarray:
    """Scale values (H, W) to uint8: those of the range to 0…255, a half to the even level; no number becomes 0."""
    low, high = grey_range
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.round(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)


def by_its_values(grey: np.ndarray) -> np.ndarray:
    """Scale grey values (H, W) to 0…255 by the range their type and size imply: 1.0, 255, 65535, or their own."""
    is_float = np.issubdtype(grey.dtype, np.floating)
    finite = grey[np.isfinite(grey)].astype(np.float64)
    highest, lowest = finite.max(initial=0.0), finite.min(initial=0.0)
    values = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=highest, neginf=lowest)
    ranges = (1.0, 255.0, 65535.0) if is_float else (65535.0,)
    top = next((limit for limit in ranges if highest <= limit), highest)
    return np.round((values - lowest) * (255.0 / (top - lowest))).astype(np.uint8)
