"""The same photo twice: byte for byte, or saved again, resized, mirrored or cut a little.

Features alone call two photos of one rose the same, thumbnails alone two petals on a dark ground. Where both agree, it
is one photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from flower_classifier.photos.copies import Place, alike
from flower_classifier.photos.looks import likeness

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


def find_twins(places: Sequence[Place], features: torch.Tensor, thumbnails: Sequence[np.ndarray]) -> list[Twins]:
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
