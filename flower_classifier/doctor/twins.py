"""The same photo twice: byte for byte, or saved again, resized, mirrored or cut a little.

Features alone call two photos of one rose the same, thumbnails alone two petals on a dark ground. Where both agree, it
is one photo. Thumbnails come with what else a photo's pixels tell: how large, bright, contrasty and sharp it is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from flower_classifier.photos.duplicates import alike
from flower_classifier.photos.images import load_image, upright_size
from flower_classifier.photos.splits import PhotoRef

NEAREST = 3  # of the photos with the most similar features, so many are compared
LEAST_COSINE = 0.6  # between the features, less their mean
ROUGHLY, FINELY = 0.8, 0.965  # least likeness of the thumbnails, at a first look and at a closer one
BLOCK = 1_024  # photos whose similarities to all others are held at a time


@dataclass(frozen=True)
class Twins:
    """Two of the photos, by their indices, that are one, and how alike they are: 1 for the same bytes."""

    one: int
    other: int
    likeness: float


def find_twins(places: Sequence[PhotoRef], features: torch.Tensor, thumbnails: Sequence[np.ndarray]) -> list[Twins]:
    """Return the pairs of photos (N) that are one, by their centred features (N, D) and their thumbnails."""
    index = {id(place): number for number, place in enumerate(places)}
    found = {}
    for first, *copies in alike(list(places)):
        for copy in copies:
            one, other = index[id(first)], index[id(copy)]
            found[one, other] = Twins(one, other, 1.0)
    for one, other in near_pairs(features):
        if (one, other) not in found and likeness(thumbnails[one], thumbnails[other]) >= ROUGHLY:
            closely = likeness(thumbnails[one], thumbnails[other], finely=True)
            if closely >= FINELY:
                found[one, other] = Twins(one, other, closely)
    return list(found.values())


def groups_of(twins: Sequence[Twins]) -> list[list[int]]:
    """Return the photos, by their indices, that are one: those linked by twins, each in order."""
    group_of: dict[int, list[int]] = {}
    for pair in twins:
        one, other = (group_of.setdefault(index, [index]) for index in (pair.one, pair.other))
        if one is not other:
            one += other
            group_of |= dict.fromkeys(other, one)
    unique = {id(group): sorted(group) for group in group_of.values()}
    return sorted(unique.values())


def near_pairs(features: torch.Tensor) -> list[tuple[int, int]]:
    """Return the pairs of photos one of which is among the NEAREST to the other, and near: each pair once, in order.

    `features`: (N, D), of mean 0.
    """
    unit = F.normalize(features, dim=1)
    pairs: set[tuple[int, int]] = set()
    for block in torch.arange(len(unit)).split(BLOCK):
        similar = unit[block] @ unit.T  # (B, N)
        similar[torch.arange(len(block)), block] = -2  # not to itself
        nearest = similar.topk(min(NEAREST, len(unit) - 1))
        for row, column in (nearest.values >= LEAST_COSINE).nonzero().tolist():
            one, other = block[row].item(), nearest.indices[row, column].item()
            pairs.add((min(one, other), max(one, other)))
    return sorted(pairs)


# ------------------------------------------------------------------------------------------ what pixels tell of a photo


SIDE = 256  # pixels of the shorter side that brightness, contrast and sharpness are measured at
LEAST = 1e-3  # of a variance, in squared levels: so a picture of one colour is sharp
THUMBNAIL = 48  # pixels a side
COMPARED = 24  # pixels a side that two thumbnails are compared at
# Parts of a photo that another may be: shares of a side, and how many places along it; roughly, then finely
ROUGH_CROPS = ((0.95, 0.9, 0.85, 0.8), 3)
FINE_CROPS = ((0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8), 9)

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
    boxes = FINE_CROPS if finely else ROUGH_CROPS
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
