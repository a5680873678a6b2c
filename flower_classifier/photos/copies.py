"""Copies, byte for byte; and what every search for copies uses: groups of linked photos, and resampling."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from flower_classifier.photos.tar_files import read_bytes

DIGEST_LETTERS = 16  # of a photo's content, in hexadecimal: two of a million photos share one once in 30 million times
TAIL = 4096  # bytes at a file's end: nearly all photos of the same size differ in them


def same_bytes(paths: Sequence[Path], sizes: Sequence[int]) -> list[list[int]]:
    """Return the groups of photos with the same bytes, as indices; an empty or unreadable photo is like no other.

    `sizes`: how many bytes each has, as was seen first. A costly key is computed only if the cheaper are equal.
    """
    keys: tuple[Callable[[int], Hashable], ...] = (
        lambda index: max(sizes[index], 0),
        lambda index: read_bytes(paths[index], last=TAIL),
        lambda index: hashlib.blake2b(read_bytes(paths[index]), digest_size=16).digest(),
    )
    groups = [list(range(len(paths)))]
    for key_of in keys:
        by_key: dict[Hashable, list[int]] = {}
        for group, members in enumerate(groups):
            for index in members:
                with contextlib.suppress(OSError):  # which opening the photo will report; an empty file has no key
                    if key := key_of(index):
                        by_key.setdefault((group, key), []).append(index)
        groups = [same for same in by_key.values() if len(same) > 1]
    return groups


def content_digests(paths: Sequence[Path], last: int | None = None) -> list[str]:
    """Return a digest of each photo's bytes, of DIGEST_LETTERS letters; empty for one that cannot be read.

    `last`: how many bytes at its end are looked at; None: all.
    """
    digests = []
    for path in paths:
        try:
            digests.append(hashlib.blake2b(read_bytes(path, last), digest_size=DIGEST_LETTERS // 2).hexdigest())
        except OSError:  # which opening the photo reports
            digests.append("")
    return digests


def linked(links: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return the groups of photos that are linked, through others too, as ascending indices.

    A link is the indices of photos that belong together.
    """
    group_of: dict[int, list[int]] = {}
    for first, *others in links:
        for other in others:
            group, absorbed = (group_of.setdefault(index, [index]) for index in (first, other))
            if group is not absorbed:
                group += absorbed
                group_of |= dict.fromkeys(absorbed, group)
    unique = {id(group): sorted(group) for group in group_of.values()}
    return sorted(unique.values())


def averaging(begin: float, side: float, pixels: int, intervals: int) -> np.ndarray:
    """Return the matrix (intervals, pixels) that averages a stretch of a row of pixels over equal intervals.

    The stretch begins at `begin` and is `side` long, both as shares of the row.
    """
    edges = pixels * (begin + side * np.arange(intervals + 1) / intervals)  # (intervals + 1,)
    positions = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], positions + 1) - np.maximum(edges[:-1, None], positions)
    return (overlap.clip(0) / (edges[1:] - edges[:-1])[:, None]).astype(np.float32)
