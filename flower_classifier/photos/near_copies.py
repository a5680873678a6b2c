"""Near copies: photos of one scene, a moment or a step apart, and copies that were resized, brightened or cut a little.

    groups = near_copies(paths, classes)         indices of photos that are near copies, of the same class each

Where some of a burst's frames are learned from and others are judged by, an accuracy says nothing of other scenes.

Photos are compared as thumbnails, within a class. Candidates look alike in colours and rough shapes (`outlines`). Of
these the fine detail decides: the middle of one thumbnail, without its slow changes of light, is looked for in the
other, shifted by up to a seventh of a side and in several sizes (`detail_likenesses`). Different flowers of a kind, and
different hands that make the same sign, agree in shapes and light but not in detail. benchmarks/near_copies.py measures
how well that tells them apart.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import PIL
from PIL import Image

from flower_classifier.base.console import progress
from flower_classifier.base.files import digest_of, write_whole
from flower_classifier.base.torchrun import usable_cores
from flower_classifier.photos.copies import averaging, linked
from flower_classifier.photos.grey import ALWAYS_8_BITS, GreyRange
from flower_classifier.photos.images import ImageError, grey_sample, load_image
from flower_classifier.photos.tar_files import status_of

VERSION = 3  # of all that decides which photos are near copies; raise it with any change
CACHED = "near-copies"  # the folder in --cache_dir that keeps what was found
THUMBNAIL = 48  # pixels a side
OUTLINE = 6  # squares a side whose mean colours make a photo's outline
NEAREST = 4  # each photo is compared in detail with this many photos, those with the most similar outlines
LEAST_OUTLINE = 0.7  # correlation of two outlines
LEAST_DETAIL = 0.87  # correlation of the detail
FINE, COARSE = 3, 7  # pixels a side: means over few pixels, less means over many, are a thumbnail's detail
MARGIN = 7  # pixels at each edge of a thumbnail: the middle within is looked for at every shift up to this
MIDDLE = THUMBNAIL - 2 * MARGIN
ZOOMS = (0.93, 0.86)  # shares of a side that one of two photos may have been cut to
LEAST_CONTRAST = 0.5  # levels: deviation of the detail, below which a picture shows nothing to compare
LEAST_UNZOOMED = 0.2  # correlation of the detail of two photos of which one may be a cut of the other
LOT = 8192  # photos whose thumbnails are in memory at a time, unless a class has more
BLOCK, PAIRS = 256, 4096  # how many photos, and pairs of them, are compared at a time
ROUNDS = 8  # at most, of looking for links between groups

Item = TypeVar("Item")
Result = TypeVar("Result")


class Thumbnails(NamedTuple):
    """What N photos are compared by."""

    outlines: np.ndarray  # (N, OUTLINE² · 3), of mean 0 in each colour, and length 1; 0 for those that show nothing
    greys: np.ndarray  # (N, THUMBNAIL, THUMBNAIL) of uint8


def near_copies(paths: Sequence[Path], classes: Sequence[Hashable]) -> list[list[int]]:
    """Return the groups of photos that are near copies of one another, or linked by such, within each class.

    A group is ascending indices. A photo that cannot be opened is a near copy of none.
    """
    members: dict[Hashable, list[int]] = {}
    for index, class_name in enumerate(classes):
        members.setdefault(class_name, []).append(index)
    groups: list[list[int]] = []
    with progress(len(paths), "looking for near copies", "photo") as bar:
        for lot in lots_of([indices for indices in members.values() if len(indices) > 1]):
            in_lot = [paths[index] for indices in lot for index in indices]
            blocks = []
            for start in range(0, len(in_lot), BLOCK):
                blocks.append(collected(in_threads(thumbnail_of, in_lot[start : start + BLOCK])))
                bar.update(len(blocks[-1].greys))
            outlines, greys = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
            ends = np.cumsum([len(indices) for indices in lot])[:-1]
            by_class = map(Thumbnails, np.split(outlines, ends), np.split(greys, ends))
            for indices, rows_of_groups in zip(lot, in_threads(groups_among, list(by_class)), strict=True):
                groups += [[indices[row] for row in rows] for rows in rows_of_groups]
    return sorted(groups)


def lots_of(members: Iterable[list[int]]) -> Iterator[list[list[int]]]:
    """Yield the classes in lots of LOT photos or a little more, so that few thumbnails are in memory at a time."""
    lot: list[list[int]] = []
    for indices in members:
        lot.append(indices)
        if sum(map(len, lot)) >= LOT:
            yield lot
            lot = []
    if lot:
        yield lot


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what a function makes of each item, with a thread for each core where the system gives them."""
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(function, items))
    except RuntimeError:  # no more threads: a limit on processes, as shared hosts have it
        return [function(item) for item in items]


def near_copies_once(
    paths: Sequence[Path], classes: Sequence[Hashable], keys: Sequence[object], cache_dir: Path | None
) -> list[list[int]]:
    """Return `near_copies`, from the cache where the same photos were searched before.

    `keys`: what tells of each photo whether it is the same as before. Where the cache cannot be read or written, the
    search is made anew.
    """
    if cache_dir is None:
        return near_copies(paths, classes)
    digest = digest_of((VERSION, PIL.__version__, *zip(paths, classes, keys, strict=True)))
    file = cache_dir / CACHED / f"{digest}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, IndexError):  # it is missing or damaged
        indices = range(len(paths))
        return [[indices[index] for index in group] for group in json.loads(file.read_text(encoding="utf-8"))]
    groups = near_copies(paths, classes)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(groups).encode(), f".{os.getpid()}")
    return groups


def are_near(pairs: Sequence[tuple[Path, Path]]) -> list[bool]:
    """Say of each pair of photos whether they are near copies; a photo that cannot be opened is one of none."""
    paths = sorted({path for pair in pairs for path in pair})
    if not paths:
        return []
    thumbnails = collected(in_threads(thumbnail_of, paths))
    row_of = {path: row for row, path in enumerate(paths)}
    rows = np.array([[row_of[first], row_of[second]] for first, second in pairs])
    outlines = (thumbnails.outlines[rows[:, 0]] * thumbnails.outlines[rows[:, 1]]).sum(axis=1)  # (P,)
    is_near = (outlines >= LEAST_OUTLINE) & (detail_likenesses(thumbnails.greys, rows) >= LEAST_DETAIL)
    return [bool(near) for near in is_near]


def thumbnail_of(path: Path) -> np.ndarray | None:
    """Return a photo squeezed into a square, uint8 (THUMBNAIL, THUMBNAIL, 3); None where it cannot be opened."""
    try:
        image = load_image(path, THUMBNAIL, own_range(path))
    except (ImageError, OSError):  # which training will report
        return None
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def own_range(path: Path) -> GreyRange | None:
    """Return the range of a photo in deep grey, but for its darkest and brightest pixels; None of any other.

    Scaled by what 16 bits can hold, all frames of a thermal camera would show nothing.
    """
    if path.name.lower().endswith(ALWAYS_8_BITS) or not status_of(path).size:
        return None
    values = grey_sample(path)
    low, high = map(float, np.percentile(values, (1, 99))) if len(values) else (0.0, 0.0)
    return (low, high) if low < high else None


def collected(thumbnails: Sequence[np.ndarray | None]) -> Thumbnails:
    """Return what photos are compared by, from their thumbnails."""
    blank = np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
    pixels = np.stack([blank if thumbnail is None else thumbnail for thumbnail in thumbnails])  # (N, S, S, 3)
    side = THUMBNAIL // OUTLINE
    squares = pixels.reshape(-1, OUTLINE, side, OUTLINE, side, 3).mean(axis=(2, 4), dtype=np.float32)
    squares = (squares - squares.mean(axis=(1, 2), keepdims=True)).reshape(len(pixels), -1)
    lengths = np.linalg.norm(squares, axis=1, keepdims=True)
    outlines = np.divide(squares, lengths, out=np.zeros_like(squares), where=lengths > 1)
    weights = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's "L"
    return Thumbnails(outlines, (pixels @ weights).astype(np.uint8))


def groups_among(thumbnails: Thumbnails) -> list[list[int]]:
    """Return the groups of near copies among the photos of a class, as ascending indices.

    Each photo is compared with few others. So of a long burst several groups may come: their photos are compared again,
    with the nearest outside of their group, until nothing new is linked.
    """
    groups: list[list[int]] = []
    links: set[tuple[int, int]] = set()
    compared: set[tuple[int, int]] = set()
    group_of = np.arange(len(thumbnails.greys))
    searching = group_of
    for _ in range(ROUNDS):
        pairs = sorted(candidates(thumbnails.outlines, group_of, searching) - compared)
        compared.update(pairs)
        likenesses = detail_likenesses(thumbnails.greys, np.array(pairs, int).reshape(-1, 2))
        new = {pair for pair, likeness in zip(pairs, likenesses, strict=True) if likeness >= LEAST_DETAIL}
        if not new:
            break
        links |= new
        groups = linked(links)
        for group in groups:
            group_of[group] = group[0]
        searching = np.array([index for group in groups for index in group])
    return groups


def candidates(outlines: np.ndarray, group_of: np.ndarray, searching: np.ndarray) -> set[tuple[int, int]]:
    """Return, of each photo that searches, the pairs with the NEAREST photos of other groups by their outlines."""
    count = min(NEAREST, len(outlines))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(searching), BLOCK):
        rows = searching[start : start + BLOCK]
        similar = outlines[rows] @ outlines.T  # (B, N)
        similar[group_of[rows][:, None] == group_of] = -1
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]  # (B, count)
        is_similar = np.take_along_axis(similar, nearest, axis=1) >= LEAST_OUTLINE
        ends = np.stack([np.broadcast_to(rows[:, None], nearest.shape)[is_similar], nearest[is_similar]], axis=1)
        pairs.update(map(tuple, np.sort(ends, axis=1).tolist()))
    return pairs


def detail_likenesses(greys: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return how well the detail of two thumbnails agrees, at most 1, for P pairs (P, 2) of indices of `greys`.

    It is the highest normalised correlation (Lewis 1995) of the middle of one with any stretch of the other, over all
    shifts up to MARGIN. Where it is low but not that of strangers, either may be cut: all ZOOMS are tried.
    """
    likenesses = np.full(len(pairs), -1.0, np.float32)
    for start in range(0, len(pairs), PAIRS):
        ends = pairs[start : start + PAIRS]
        values = best_matches(greys, ends)
        unsure = np.nonzero((values >= LEAST_UNZOOMED) & (values < LEAST_DETAIL))[0]
        for zoom in ZOOMS if len(unsure) else ():
            for both_ways in (ends[unsure], ends[unsure, ::-1]):
                values[unsure] = np.maximum(values[unsure], best_matches(greys, both_ways, zoom))
        likenesses[start : start + PAIRS] = values
    return likenesses


def detail(greys: np.ndarray, zoom: float = 1.0) -> np.ndarray:
    """Return the detail of thumbnails, (P, S, S): neither their slow changes of light, nor the noise of single pixels.

    `zoom`: the share of a side that is enlarged to the whole before.
    """
    enlarging = averaging((1 - zoom) / 2, zoom, THUMBNAIL, THUMBNAIL)
    fine, coarse = (means_of(side) @ enlarging for side in (FINE, COARSE))  # (S, S) each
    return fine @ greys @ fine.T - coarse @ greys @ coarse.T


@functools.cache
def means_of(side: int) -> np.ndarray:
    """Return the matrix (S, S) that takes a row of pixels to the means of `side` pixels around each, fewer at edges."""
    distances = np.abs(np.subtract.outer(np.arange(THUMBNAIL), np.arange(THUMBNAIL)))
    is_near = (distances <= side // 2).astype(np.float32)
    return is_near / is_near.sum(axis=1, keepdims=True)


def middles(details: np.ndarray) -> np.ndarray:
    """Return the middles (P, MIDDLE, MIDDLE) of thumbnails, of mean 0 and length 1; 0 of those that show nothing."""
    middle = details[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    middle = middle - middle.mean(axis=(1, 2), keepdims=True)
    lengths = np.linalg.norm(middle, axis=(1, 2), keepdims=True)
    return np.divide(middle, lengths, out=np.zeros_like(middle), where=lengths > LEAST_CONTRAST * MIDDLE)


def best_matches(greys: np.ndarray, pairs: np.ndarray, zoom: float = 1.0) -> np.ndarray:
    """Return the highest correlation (P,) of the middle of the first with a stretch of the second, over all shifts.

    `zoom`: the share of the second's side that is compared.
    """
    shape, shifts = (THUMBNAIL, THUMBNAIL), 2 * MARGIN + 1
    firsts, first_of = np.unique(pairs[:, 0], return_inverse=True)
    seconds, second_of = np.unique(pairs[:, 1], return_inverse=True)
    middle_spectra = np.fft.rfft2(middles(detail(greys[firsts].astype(np.float32))), s=shape).conj()
    details = detail(greys[seconds].astype(np.float32), zoom)
    spectra = np.fft.rfft2(details)
    shifted = np.arange(THUMBNAIL) - np.arange(shifts)[:, None]
    within = ((shifted >= 0) & (shifted < MIDDLE)).astype(np.float32)  # (shifts, S): a stretch at each shift
    sums, squares = (within @ values @ within.T for values in (details, details**2))  # (P, shifts, shifts)
    variances = squares - sums**2 / MIDDLE**2  # times the area
    lengths = np.sqrt(variances.clip((LEAST_CONTRAST * MIDDLE) ** 2))
    values = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), BLOCK):
        rows = slice(start, start + BLOCK)
        products = np.fft.irfft2(middle_spectra[first_of[rows]] * spectra[second_of[rows]], s=shape)
        at_shifts = products[:, :shifts, :shifts] / lengths[second_of[rows]]  # none of these shifts wraps around
        values[rows] = at_shifts.max(axis=(1, 2))
    return values
