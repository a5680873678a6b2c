"""What can be told of a photo by its pixels alone: how large, bright, contrasty and sharp it is, and a thumbnail.

look = look_at(path)
likeness(look.thumbnail, other.thumbnail)      1 for the same photo, even resized, cropped a little or mirrored
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flower_classifier.photos.images import load_image, upright_size

SIDE = 256  # pixels of the shorter side that brightness, contrast and sharpness are measured at
LEAST = 1e-3  # of a variance, in squared levels: so a picture of one colour is sharp
THUMBNAIL = 48  # pixels a side
COMPARED = 24  # pixels a side that two thumbnails are compared at
# Parts of a photo that another may be: shares of a side, and how many places along it; roughly, then finely
ROUGHLY = ((0.95, 0.9, 0.85, 0.8), 3)
FINELY = ((0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8), 9)

Boxes = tuple[tuple[float, ...], int]


@dataclass(frozen=True)
class Look:
    """What a photo looks like."""

    size: tuple[int, int]  # width and height in pixels, upright
    # Of a pixel its strongest colour counts, of a photo the 5 % brightest pixels: neither a red flower nor one on black
    # ground is dark
    brightness: float  # 0 black to 1
    contrast: float  # from the 5 % darkest to the 5 % brightest pixels, 0 to 1
    sharpness: float  # from the variance of the Laplacian: Pech-Pacheco et al. 2000
    thumbnail: np.ndarray  # (THUMBNAIL, THUMBNAIL) of uint8: all of it in grey, squeezed into a square


def look_at(path: Path) -> Look:
    """Look at a photo. Raises ImageError for one that cannot be opened."""
    image = load_image(path, SIDE)
    if min(image.size) > SIDE:
        scale = SIDE / min(image.size)
        image = image.resize([max(SIDE, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    grey = image.convert("L")
    dark, bright = np.percentile(np.asarray(image).max(axis=2), (5, 95)) / 255
    thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return Look(
        upright_size(path), float(bright), float(bright - dark), sharpness(np.asarray(grey, np.float32)), thumbnail
    )


def sharpness(values: np.ndarray) -> float:
    """Return the logarithm of the variance of a grey picture's (H, W) Laplacian, as a share of its own variance."""
    if min(values.shape) < 3:
        return 0.0
    middle = values[1:-1, 1:-1]
    edges = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * middle
    return float(np.log((edges.var() + LEAST) / (values.var() + LEAST)))


def likeness(one: np.ndarray, other: np.ndarray, finely: bool = False) -> float:
    """Return how alike two thumbnails are, at most 1: the highest correlation of one, or a part of it, with the other.

    Mirror images are alike too. Looking `finely` takes ten times as long, and finds where a photo was cut to a pixel.
    """
    boxes = FINELY if finely else ROUGHLY
    all_of_one, all_of_other = parts(one)[0], parts(other)[0]  # (COMPARED²,)
    mirrored = parts(one[:, ::-1])[0]
    return max(
        (parts(one, boxes) @ all_of_other).max().item(),
        (parts(one[:, ::-1], boxes) @ all_of_other).max().item(),
        (parts(other, boxes) @ np.stack([all_of_one, mirrored], axis=1)).max().item(),
    )


def parts(thumbnail: np.ndarray, boxes: Boxes = ((), 0)) -> np.ndarray:
    """Return all of a thumbnail, then its parts, as vectors (P, COMPARED²) of mean 0 and length 1; of one colour, 0."""
    rows, columns = averages(boxes)
    values = rows @ thumbnail.astype(np.float32) @ columns  # (P, COMPARED, COMPARED)
    flat = values.reshape(len(values), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 1)


@functools.cache
def averages(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Return what takes a thumbnail's rows to those of all of it and of its parts, and its columns to theirs.

    (P, COMPARED, THUMBNAIL) and (P, THUMBNAIL, COMPARED).
    """
    sides, number = boxes
    places = [place / (number - 1) for place in range(number)]
    lie = [(0.0, 0.0, 1.0)]
    lie += [(top * (1 - side), left * (1 - side), side) for side in sides for top in places for left in places]
    rows = np.stack([averaging(top, side) for top, _, side in lie])
    columns = np.stack([averaging(left, side).T for _, left, side in lie])
    return rows, columns


def averaging(begin: float, side: float) -> np.ndarray:
    """Return what takes THUMBNAIL pixels to the means over COMPARED equal stretches of a part of them."""
    edges = THUMBNAIL * (begin + side * np.arange(COMPARED + 1) / COMPARED)  # (COMPARED + 1,)
    pixels = np.arange(THUMBNAIL)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) / (edges[1:] - edges[:-1])[:, None]).astype(np.float32)
