"""Which photos are one: byte for byte, or saved again, resized, mirrored, turned, cut a little, or with a border.

    twins = find_twins(refs, features, thumbnails)
    likeness(thumbnail, other)      1 for the same photo, even resized, cropped a little or mirrored

Features alone would call two photos of one rose the same; thumbnails alone, two petals on a dark ground. Where both
agree, it is one photo. A network knows neither a turned photo nor one in a border again: there the thumbnails' rough
shapes choose the pairs, in every position of the square, and the fine detail (photos/near_copies.py) must agree, too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from flower_classifier.photos.copies import averaging, same_bytes
from flower_classifier.photos.near_copies import LEAST_DETAIL, THUMBNAIL, detail_likenesses
from flower_classifier.photos.splits import PhotoRef

COMPARED = 24  # pixels a side that two thumbnails are compared at
# Crops of a photo that its twin may show: shares of a side, and how many offsets along it; few crops, then many
ROUGHLY = ((0.95, 0.9, 0.85, 0.8), 3)
FINELY = ((0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8), 9)

Boxes = tuple[tuple[float, ...], int]
Pair = tuple[int, int]


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
OUTLINE = 8  # pixels a side that rough shapes are compared at
LEAST_OUTLINE = 0.9  # correlation of two rough shapes; a cut moves them
BLOCK = 1_024  # photos whose similarities to all others are in memory at a time


def find_twins(refs: Sequence[PhotoRef], features: torch.Tensor, thumbnails: Sequence[np.ndarray]) -> dict[Pair, float]:
    """Return the pairs of duplicates among N photos, by their centred features (N, D) and their thumbnails.

    A pair is the indices of two photos that are one; beside it is how alike they are, 1 for the same bytes.
    """
    same = same_bytes([ref.path for ref in refs], [ref.size for ref in refs])
    twins = {(original, copy): 1.0 for original, *copies in same for copy in copies}
    for first, second in near_pairs(features):
        if (first, second) not in twins and (closely := closeness(thumbnails[first], thumbnails[second])):
            twins[first, second] = closely
    for first, second, position in alike_outlines(thumbnails):
        if (first, second) not in twins:
            turned = np.ascontiguousarray(in_position(thumbnails[second], position))
            (detail,) = detail_likenesses(np.stack([thumbnails[first], turned]), np.array([[0, 1]]))
            if detail >= LEAST_DETAIL and (closely := closeness(thumbnails[first], turned)):
                twins[first, second] = closely
    return twins


def closeness(first: np.ndarray, second: np.ndarray) -> float:
    """Return how alike two thumbnails are if they show one photo, and otherwise 0."""
    closely = likeness(first, second, finely=True) if likeness(first, second) >= LEAST_ROUGHLY else 0.0
    return closely if closely >= LEAST_FINELY else 0.0


def near_pairs(features: torch.Tensor) -> list[Pair]:
    """Return the pairs of photos where one is among the NEAREST to the other and their cosine is at least LEAST_COSINE.

    Each pair comes once; the pairs are sorted. `features`: (N, D), of mean 0.
    """
    unit = torch.nn.functional.normalize(features, dim=1)
    pairs: set[Pair] = set()
    for block in torch.arange(len(unit)).split(BLOCK):
        similar = unit[block] @ unit.T  # (B, N)
        similar[torch.arange(len(block)), block] = -2  # not to itself
        nearest = similar.topk(min(NEAREST, len(unit) - 1))
        for row, column in (nearest.values >= LEAST_COSINE).nonzero().tolist():
            first, second = block[row].item(), nearest.indices[row, column].item()
            pairs.add((min(first, second), max(first, second)))
    return sorted(pairs)


def in_position(thumbnail: np.ndarray, position: int) -> np.ndarray:
    """Return a thumbnail in one of the eight positions of a square: turned by quarters, from 4 on mirrored before."""
    return np.rot90(thumbnail if position < 4 else thumbnail[:, ::-1], position % 4)


def alike_outlines(thumbnails: Sequence[np.ndarray]) -> Iterator[tuple[int, int, int]]:
    """Yield the pairs of photos whose rough shapes are alike, with the position of the second in which they are most.

    Each photo is compared with the one that is most alike. Pairs are ascending, and may come twice.
    """
    squeeze = averaging(0, 1, THUMBNAIL, OUTLINE)
    greys = squeeze @ np.stack(thumbnails).astype(np.float32) @ squeeze.T  # (N, OUTLINE, OUTLINE)
    greys -= greys.mean(axis=(1, 2), keepdims=True)
    lengths = np.linalg.norm(greys, axis=(1, 2), keepdims=True)
    greys = np.divide(greys, lengths, out=np.zeros_like(greys), where=lengths > OUTLINE)
    positions = [np.stack([in_position(grey, position) for grey in greys]) for position in range(8)]
    turned = [torch.from_numpy(shapes.reshape(len(greys), -1)) for shapes in positions]
    for block in torch.arange(len(greys)).split(BLOCK):
        best, position_of = (
            torch.full((len(block), len(greys)), -1.0),
            torch.zeros(len(block), len(greys), dtype=torch.uint8),
        )
        for position, shapes in enumerate(turned):
            similar = turned[0][block] @ shapes.T  # (B, N)
            position_of[similar > best] = position
            best = torch.maximum(best, similar)
        best[torch.arange(len(block)), block] = -1  # not to itself
        values, others = best.max(dim=1)
        for row in (values >= LEAST_OUTLINE).nonzero()[:, 0].tolist():
            first, second, position = int(block[row]), int(others[row]), int(position_of[row, others[row]])
            if first < second:
                yield first, second, position
            else:  # what a quarter to the left undoes is one to the right; a mirrored position undoes itself
                yield second, first, -position % 4 if position < 4 else position
