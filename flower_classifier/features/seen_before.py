"""Photos to judge by that are near copies of photos learned from: an accuracy on them says little.

    warn_of_seen(inputs)                   after the features were computed
    warn_of_seen_by_pixels(splits)         without any: each photo is opened

Features choose which photos are compared, so only few are opened again. The pixels decide (photos/near_copies.py).
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from flower_classifier.base.messages import counted, first_few, warn
from flower_classifier.features.inputs import AllInputs, Inputs
from flower_classifier.photos.near_copies import are_near, near_copies
from flower_classifier.photos.splits import PhotoRef, Split, Splits, copies_among

# Cosine of two photos' features less their class's mean, from which on they are compared. Of burst frames in two splits
# all had 0.95 or more; of other photos of a flower one in thirty had 0.8 or more (docs/measurements.md)
LEAST_COSINE = 0.8
AT_LEAST = 64  # pairs of two splits that are compared in any case, the most alike: of few photos, and of odd networks
NEAREST = 3  # photos that each is compared with
FEWEST = 3  # photos of a class that have a mean worth taking off


def warn_of_seen(inputs: AllInputs) -> None:
    """Warn of validation and test photos that are near copies of photos seen before them; view 0 has been computed."""
    train, valid, test = inputs
    if train.frozen.network is None:  # the rows are pixels, and training takes so long that opening photos is nothing
        warn_of_seen_by_pixels(Splits((), train.split, valid.split, test.split if test else None))
        return
    for held, seen in ((valid, train), (test, train), (test, valid)):
        if held:
            pairs = [
                (PhotoRef(held.split, held.used[row]), PhotoRef(seen.split, seen.used[column]))
                for row, column in alike_pairs(held, seen)
            ]
            nears = are_near([(photo.path, other.path) for photo, other in pairs])
            near = [pair for pair, is_near in zip(pairs, nears, strict=True) if is_near]
            tell(held.split, seen.split, {photo.photo for photo, other in near if not copies_among([photo, other])})


def warn_of_seen_by_pixels(splits: Splits) -> None:
    """Warn of the same photos, without features."""
    refs = [PhotoRef(split, index) for split in splits.parts for index in range(len(split))]
    groups = [
        [refs[index] for index in group]
        for group in near_copies([ref.path for ref in refs], [ref.label for ref in refs])
    ]
    copies = copies_among([ref for group in groups for ref in group])
    for held, seen in ((splits.valid, splits.train), (splits.test, splits.train), (splits.test, splits.valid)):
        if held:
            near = both_sides(groups, held, seen)
            tell(held, seen, near - both_sides(copies, held, seen))


def both_sides(groups: list[list[PhotoRef]], held: Split, seen: Split) -> set[str]:
    """Return the photos of a split in groups that hold photos of the other split too."""
    torn = [group for group in groups if any(ref.split is seen for ref in group)]
    return {ref.photo for group in torn for ref in group if ref.split is held}


def alike_pairs(held: Inputs, seen: Inputs) -> list[tuple[int, int]]:
    """Return the rows of photos of a class, one of each split, whose features are most alike."""
    held_features, seen_features = held.features(), seen.features()
    held_labels, seen_labels = held.labels, seen.labels
    count = max(NEAREST, AT_LEAST // len(held_labels))
    pairs: list[tuple[float, int, int]] = []  # cosine, row of the one, row of the other
    for label in held_labels.unique():
        rows, columns = ((labels == label).nonzero()[:, 0] for labels in (held_labels, seen_labels))
        if not len(columns):
            continue
        ones, others = held_features[rows].float(), seen_features[columns].float()  # (N, D), (M, D)
        mean = others.mean(dim=0) if len(columns) >= FEWEST else torch.zeros(others.shape[1])
        ones, others = (torch.nn.functional.normalize(features - mean, dim=1) for features in (ones, others))
        nearest = (ones @ others.T).topk(min(count, len(columns)))
        cosines, others_rows = nearest.values.flatten().tolist(), columns[nearest.indices].flatten().tolist()
        pairs += zip(cosines, rows.repeat_interleave(nearest.values.shape[1]).tolist(), others_rows, strict=True)
    pairs.sort(key=lambda pair: -pair[0])
    alike = [(row, other) for cosine, row, other in pairs if cosine >= LEAST_COSINE]
    return alike if len(alike) > AT_LEAST else [(row, other) for _, row, other in pairs[:AT_LEAST]]


def tell(held: Split, seen: Split, near: Collection[str]) -> None:
    """Warn of photos of a split that are near copies of the other's."""
    if near:
        are = (
            f"is a near copy of a {seen.spoken} photo" if len(near) == 1 else f"are near copies of {seen.spoken} photos"
        )
        warn(
            f"{counted(len(near), f'{held.spoken} photo')} of {len(held):,} {are} ({first_few(sorted(near))}): "
            "accuracy on them says little of other photos"
        )
