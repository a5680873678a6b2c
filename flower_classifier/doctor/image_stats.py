"""What is measured on a photo's pixels alone (size, brightness, contrast, sharpness), and which photos are one.

    stats = ImageStats.of(path)
    likeness(stats.thumbnail, other.thumbnail)      1 for the same photo, even resized, cropped a little or mirrored

The same photo may be there twice: byte for byte, or saved again, resized, mirrored or cut a little. Features alone
would call two photos of one rose the same; thumbnails alone, two petals on a dark ground. Where both agree, it is one
photo.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flower_classifier.photos.copies import averaging, same_bytes
from flower_classifier.photos.grey import GreyRange
from flower_classifier.photos.images import load_image, upright_size
from flower_classifier.photos.splits import PhotoRef

SIDE = 256  # pixels of the shorter side that brightness, contrast and sharpness are measured at
LEAST_VARIANCE = 1e-3  # squared levels, added to both variances of sharpness: a picture of one colour counts as sharp
THUMBNAIL = 48  # pixels a side
COMPARED = 24  # pixels a side that two thumbnails are compared at
# Crops of a photo that its twin may show: shares of a side, and how many offsets along it; few crops, then many
ROUGHLY = ((0.95, 0.9, 0.85, 0.8), 3)
FINELY = ((0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8), 9)

Boxes = tuple[tuple[float, ...], int]


@dataclass(frozen=True)
class ImageStats:
    """What is measured on a photo's pixels."""

    size: tuple[int, int]  # width and height in pixels, upright
    # A pixel's brightness is its strongest channel; a photo's is the 95th percentile. So neither a red flower nor a
    # flower on black counts as dark
    brightness: float  # 0 black to 1
    contrast: float  # difference of the 95th and the 5th percentile of the brightness, 0 to 1
    sharpness: float  # by the variance of the Laplacian: Pech-Pacheco et al. 2000
    thumbnail: np.ndarray  # (THUMBNAIL, THUMBNAIL) of uint8: the whole photo in grey, squeezed into a square

    @classmethod
    def of(cls, path: Path, grey_range: GreyRange | None = None) -> ImageStats:
        """Measure a photo's pixels, as the network sees them. Raises ImageError for one that cannot be opened."""
        image = load_image(path, SIDE, grey_range)
        if min(image.size) > SIDE:
            scale = SIDE / min(image.size)
            image = image.resize([max(SIDE, round(side * scale)) for side in image.size], Image.Resampling.BOX)
        grey = image.convert("L")
        dark, bright = np.percentile(np.asarray(image).max(axis=2), (5, 95)) / 255
        thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
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


def likeness(first: np.ndarray, second: np.ndarray, finely: bool = False) -> float:
    """Return how alike two thumbnails are, at most 1: the highest correlation of one, or a crop of it, with the other.

    Mirror images are alike too. `finely` takes ten times as long, and finds to a pixel where a photo was cut.
    """
    boxes = FINELY if finely else ROUGHLY
    whole_first, whole_second = crops_of(first)[0], crops_of(second)[0]  # (COMPARED²,)
    mirrored_first = crops_of(first[:, ::-1])[0]
    return max(
        (crops_of(first, boxes) @ whole_second).max().item(),
        (crops_of(first[:, ::-1], boxes) @ whole_second).max().item(),
        (crops_of(second, boxes) @ np.stack([whole_first, mirrored_first], axis=1)).max().item(),
    )


def crops_of(thumbnail: np.ndarray, boxes: Boxes = ((), 0)) -> np.ndarray:
    """Return a thumbnail and its crops as vectors (P, COMPARED²) of mean 0 and length 1; one colour gives 0."""
    rows, columns = averages(boxes)
    values = rows @ thumbnail.astype(np.float32) @ columns  # (P, COMPARED, COMPARED)
    flat = values.reshape(len(values), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 1)


@functools.cache
def averages(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices that average a thumbnail's rows and columns to those of the whole and of its crops.

    They are (P, COMPARED, THUMBNAIL), to multiply from the left, and (P, THUMBNAIL, COMPARED), from the right.
    """
    sides, steps = boxes
    offsets = [step / (steps - 1) for step in range(steps)]
    crops = [(0.0, 0.0, 1.0)]
    crops += [(top * (1 - side), left * (1 - side), side) for side in sides for top in offsets for left in offsets]
    rows = np.stack([averaging(top, side, THUMBNAIL, COMPARED) for top, _, side in crops])
    columns = np.stack([averaging(left, side, THUMBNAIL, COMPARED).T for _, left, side in crops])
    return rows, columns


# ------------------------------------------------------------------------------------------------- the same photo twice


NEAREST = 3  # each photo is compared with this many photos, those with the most similar features
LEAST_COSINE = 0.6  # between the centred features
LEAST_ROUGHLY, LEAST_FINELY = 0.8, 0.965  # least likeness of the thumbnails, by few crops first and then by many
BLOCK = 1_024  # photos whose similarities to all others are in memory at a time


def find_twins(
    refs: Sequence[PhotoRef], features: torch.Tensor, thumbnails: Sequence[np.ndarray]
) -> dict[tuple[int, int], float]:
    """Return the pairs of duplicates among N photos, by their centred features (N, D) and their thumbnails.

    A pair is the indices of two photos that are one; beside it is how alike they are, 1 for the same bytes.
    """
    same = same_bytes([ref.path for ref in refs], [ref.size for ref in refs])
    twins = {(original, copy): 1.0 for original, *copies in same for copy in copies}
    for first, second in near_pairs(features):
        if (first, second) not in twins and likeness(thumbnails[first], thumbnails[second]) >= LEAST_ROUGHLY:
            closely = likeness(thumbnails[first], thumbnails[second], finely=True)
            if closely >= LEAST_FINELY:
                twins[first, second] = closely
    return twins


def near_pairs(features: torch.Tensor) -> list[tuple[int, int]]:
    """Return the pairs of photos where one is among the NEAREST to the other and their cosine is at least LEAST_COSINE.

    Each pair comes once; the pairs are sorted. `features`: (N, D), of mean 0.
    """
    unit = torch.nn.functional.normalize(features, dim=1)
    pairs: set[tuple[int, int]] = set()
    for block in torch.arange(len(unit)).split(BLOCK):
        similar = unit[block] @ unit.T  # (B, N)
        similar[torch.arange(len(block)), block] = -2  # not to itself
        nearest = similar.topk(min(NEAREST, len(unit) - 1))
        for row, column in (nearest.values >= LEAST_COSINE).nonzero().tolist():
            first, second = block[row].item(), nearest.indices[row, column].item()
            pairs.add((min(first, second), max(first, second)))
    return sorted(pairs)
