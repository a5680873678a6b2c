"""What is measured on a photo's pixels alone: size, brightness, contrast, sharpness, and a thumbnail.

stats = ImageStats.of(path)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flower_classifier.photos.grey import GreyRange
from flower_classifier.photos.images import load_image, upright_size
from flower_classifier.photos.near_copies import THUMBNAIL

SIDE = 256  # pixels of the shorter side that brightness, contrast and sharpness are measured at
LEAST_VARIANCE = 1e-3  # squared levels, added to both variances of sharpness: a picture of one colour counts as sharp
# Of a border: the most that its colours differ from its median, in levels, but for one pixel in twenty; the least share
# of a side that must lie within
BORDER_RANGE, LEAST_WITHIN = 12, 0.5


@dataclass(frozen=True)
class ImageStats:
    """What is measured on a photo's pixels."""

    size: tuple[int, int]  # width and height in pixels, upright
    # A pixel's brightness is its strongest channel; a photo's is the 95th percentile. So neither a red flower nor a
    # flower on black counts as dark
    brightness: float  # 0 black to 1
    contrast: float  # difference of the 95th and the 5th percentile of the brightness, 0 to 1
    sharpness: float  # by the variance of the Laplacian: Pech-Pacheco et al. 2000
    thumbnail: np.ndarray  # (THUMBNAIL, THUMBNAIL) of uint8: the photo in grey within its border, squeezed to a square

    @classmethod
    def of(cls, path: Path, grey_range: GreyRange | None = None) -> ImageStats:
        """Measure a photo's pixels, as the network sees them. Raises ImageError for one that cannot be opened."""
        image = load_image(path, SIDE, grey_range)
        if min(image.size) > SIDE:
            scale = SIDE / min(image.size)
            image = image.resize([max(SIDE, round(side * scale)) for side in image.size], Image.Resampling.BOX)
        grey = image.convert("L")
        dark, bright = np.percentile(np.asarray(image).max(axis=2), (5, 95)) / 255
        box = within_border(np.asarray(grey))
        thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, box))
        return cls(
            upright_size(path), float(bright), float(bright - dark), sharpness(np.asarray(grey, np.float32)), thumbnail
        )


def sharpness(values: np.ndarray) -> float:
    """Return the logarithm of the variance of a grey picture's (H, W) Laplacian over the picture's variance."""
    if min(values.shape) < 3:
        return 0.0
    middle = values[1:-1, 1:-1]
    edges = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * middle
    return float(np.log((edges.var() + LEAST_VARIANCE) / (values.var() + LEAST_VARIANCE)))


def within_border(grey: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) of a grey picture (H, W) less a border that has one colour, if any."""
    background = float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    differs = np.abs(grey - background) > BORDER_RANGE  # (H, W)
    limits = []
    for axis in (0, 1):
        (inner,) = np.nonzero(differs.mean(axis=axis) > 0.05)
        length = differs.shape[1 - axis]
        has_border = len(inner) and inner[-1] + 1 - inner[0] >= LEAST_WITHIN * length
        limits.append((int(inner[0]), int(inner[-1]) + 1) if has_border else (0, length))
    (left, right), (top, bottom) = limits
    return left, top, right, bottom
