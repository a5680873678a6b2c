"""The same photo twice: byte for byte, or saved again, resized, mirrored or cut a little.

Features alone would call two photos of one rose the same; thumbnails alone, two petals on a dark ground. Where both
agree, it is one photo.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from flower_classifier.doctor.image_stats import likeness
from flower_classifier.photos.splits import PhotoRef, alike

NEAREST = 3  # each photo is compared with this many photos, those with the most similar features
LEAST_COSINE = 0.6  # between the centred features
ROUGHLY, FINELY = 0.8, 0.965  # least likeness of the thumbnails, by few crops first and then by many
BLOCK = 1_024  # photos whose similarities to all others are in memory at a time


def find_twins(
    refs: Sequence[PhotoRef], features: torch.Tensor, thumbnails: Sequence[np.ndarray]
) -> dict[tuple[int, int], float]:
    """Return the pairs of duplicates among N photos, by their centred features (N, D) and their thumbnails.

    A pair is the indices of two photos that are one; beside it is how alike they are, 1 for the same bytes.
    """
    index_of = {id(ref): index for index, ref in enumerate(refs)}
    twins: dict[tuple[int, int], float] = {}
    for original, *copies in alike(refs):
        for copy in copies:
            twins[index_of[id(original)], index_of[id(copy)]] = 1.0
    for first, second in near_pairs(features):
        if (first, second) not in twins and likeness(thumbnails[first], thumbnails[second]) >= ROUGHLY:
            closely = likeness(thumbnails[first], thumbnails[second], finely=True)
            if closely >= FINELY:
                twins[first, second] = closely
    return twins


def groups_of(twins: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the groups of photos that twins link, as ascending indices."""
    group_of: dict[int, list[int]] = {}
    for pair in twins:
        group, absorbed = (group_of.setdefault(index, [index]) for index in pair)
        if group is not absorbed:
            group += absorbed
            group_of |= dict.fromkeys(absorbed, group)
    unique = {id(group): sorted(group) for group in group_of.values()}
    return sorted(unique.values())


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
