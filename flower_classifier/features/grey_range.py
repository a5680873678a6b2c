"""The range of grey that becomes 0 to 255, measured once over the training photos of a run.

Only photos that can hold grey of more than 8 bits are looked at, by the endings of their names and then by their
headers. A folder of JPEGs costs no more than a look at its names.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from flower_classifier.base.messages import counted, note, warn
from flower_classifier.features.extraction import ordered_parallel_map
from flower_classifier.photos.grey import ALWAYS_8_BITS, GreyRange, Samples, samples_of
from flower_classifier.photos.images import first_bytes, grey_sample, open_any
from flower_classifier.photos.mending import PNG_BEGINNING
from flower_classifier.photos.splits import Split
from flower_classifier.photos.tar_files import file_of

MOST_HEADERS, MOST_OPENED = 1_000, 200  # photos, drawn by their names
# Below and above the range lie this many of 1,000 pixels each, such as a camera's dead and hot ones: with all pixels in
# it, these spoil a range; 20 of 1,000 gained no more (docs/measurements.md)
LOW, HIGH = 0.1, 99.9  # in percent
STEPS = 64  # the range's ends are rounded outwards to so many steps of it: a few photos more hardly ever change it


def find_grey_range(split: Split) -> GreyRange | None:
    """Return the range of a split's photos in grey of more than 8 bits, and say so; None where there are none.

    Nor is there one where they are of several kinds, of which the same value means different things.
    """
    candidates = [index for index, photo in enumerate(split.photos) if not photo.lower().endswith(ALWAYS_8_BITS)]
    candidates.sort(key=lambda index: hashlib.blake2b(split.photos[index].encode("utf-8", "surrogateescape")).digest())
    kinds = {index: samples_in_header(split.path(index)) for index in candidates[:MOST_HEADERS]}
    deep = {index: samples for index, samples in kinds.items() if samples}
    if not deep:
        return None
    if len(set(deep.values())) > 1:
        listed = ", ".join(f"{samples} in {count:,}" for samples, count in Counter(deep.values()).most_common())
        warn(f"training photos of several kinds ({listed}): each is scaled by what its kind can hold; make them alike")
        return None
    work = [(split.path(index),) for index in list(deep)[:MOST_OPENED]]
    opened = [values for values in ordered_parallel_map(grey_sample, work, torch.device("cpu")) if len(values)]
    samples = next(iter(deep.values()))
    grey_range = range_of(np.concatenate(opened), samples) if opened else None
    if grey_range:
        note(f"{in_words(samples, grey_range)} (from {counted(len(opened), 'training photo')})")
    return grey_range


def samples_in_header(path: Path) -> Samples | None:
    """Return what the values of a photo in deep grey are; None for any other, and for what cannot be opened.

    Of a PNG the first bytes tell; of a TIFF, a PPM or a file of another format, Pillow.
    """
    with contextlib.suppress(Exception):  # which opening the photo will report
        file = file_of(path)
        if isinstance(file, Path) and not file.is_file():
            return None  # reading a pipe, say, might wait for ever
        beginning = first_bytes(file)
        if beginning.startswith(PNG_BEGINNING):
            return Samples("unsigned", 16) if beginning[24:26] == b"\x10\0" else None  # 16 bits of grey
        with open_any(file) as image:
            return samples_of(image)
    return None


def range_of(values: np.ndarray, samples: Samples) -> GreyRange | None:
    """Return the range that nearly all of some values (N,) are in, or all if those are equal; None for one value."""
    low, high = map(float, np.percentile(values.astype(np.float64), (LOW, HIGH)))
    if not low < high:  # a few stars in the sky
        low, high = float(values.min()), float(values.max())
    if not low < high:
        return None
    step = 2.0 ** math.ceil(math.log2((high - low) / STEPS))
    lowest, highest = samples.limits or (-math.inf, math.inf)
    return max(math.floor(low / step) * step, lowest), min(math.ceil(high / step) * step, highest)


def in_words(samples: Samples, grey_range: GreyRange) -> str:
    """Say which values of a kind of samples become 0 to 255."""
    low, high = (f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}" for value in grey_range)
    limits = samples.limits
    of = f" of {limits[0]:,} to {limits[1]:,}" if limits and limits[0] else f" of {limits[1]:,}" if limits else ""
    return f"{samples}: {low} to {high}{of} becomes 0 to 255"
