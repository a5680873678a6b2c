"""Photos to judge by that are near copies of photos learned from: an accuracy on them says little.

    warn_of_seen(splits, inputs)      after the features were computed: they choose the few photos that are opened again
    warn_of_seen(splits)              without any: each photo is opened

The pixels decide (photos/near_copies.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection

import torch

from flower_classifier.base.messages import counted, first_few, warn
from flower_classifier.features.inputs import AllInputs, Inputs
from flower_classifier.networks.devices import torch_threads
from flower_classifier.photos.near_copies import are_near, near_copies
from flower_classifier.photos.splits import PhotoRef, Split, Splits, copies_among

# Cosine of two photos' features less their class's mean, from which on they are compared. Of burst frames in two splits
# all had 0.95 or more; of other photos of a flower one in thirty had 0.8 or more (docs/measurements.md)
LEAST_COSINE = 0.8
AT_LEAST = 64  # pairs of two splits that are compared in any case, the most alike: of few photos, and of odd networks
NEAREST = 3  # photos that each is compared with
FEWEST = 3  # photos of a class that have a mean worth taking off


def warn_of_seen(splits: Splits, inputs: AllInputs | None = None) -> None:
    """Warn of validation and test photos that are near copies of photos seen before them.

    Of copies byte for byte `Splits.warn_of_copies` warns. `inputs`: of the splits, where view 0 has been computed.
    """
    if inputs is None or inputs.train.frozen.network is None:  # or it learns from pixels, which takes far longer
        refs = [PhotoRef(split, index) for split in splits.parts for index in range(len(split))]
        near = near_copies([ref.path for ref in refs], [ref.label for ref in refs])
        groups = [[refs[index] for index in group] for group in near]
        copies = copies_among([ref for group in groups for ref in group])
        for earlier, later in itertools.combinations(splits.parts, 2):
            tell(later, earlier, both_sides(groups, later, earlier) - both_sides(copies, later, earlier))
        return
    for seen, held in itertools.combinations(inputs.splits, 2):
        pairs = [
            (PhotoRef(held.split, held.used[row]), PhotoRef(seen.split, seen.used[column]))
            for row, column in alike_pairs(held, seen)
        ]
        nears = are_near([(photo.path, other.path) for photo, other in pairs])
        near_pairs = [pair for pair, is_near in zip(pairs, nears, strict=True) if is_near]
        near_photos = {photo.photo for photo, other in near_pairs if not copies_among([photo, other])}
        tell(held.split, seen.split, near_photos)


def both_sides(groups: list[list[PhotoRef]], held: Split, seen: Split) -> set[str]:
    """Return the photos of a split in groups that hold photos of the other split too."""
    torn = [group for group in groups if any(ref.split is seen for ref in group)]
    return {ref.photo for group in torn for ref in group if ref.split is held}


def alike_pairs(held: Inputs, seen: Inputs) -> list[tuple[int, int]]:
    """Return the rows of photos of a class, one of each split, whose features are most alike."""
    labels = held.labels, seen.labels
    count = max(NEAREST, AT_LEAST // len(labels[0]))
    pairs: list[tuple[float, int, int]] = []  # cosine, row of the held photo, row of the seen one
    with torch_threads(1):  # of products as small as a class's, more threads would only wait for each other
        for label in labels[0].unique():
            rows, columns = ((of_split == label).nonzero()[:, 0] for of_split in labels)
            if not len(columns):
                continue
            features = [held.features()[rows].float(), seen.features()[columns].float()]  # (N, D), (M, D)
            mean = features[1].mean(dim=0) if len(columns) >= FEWEST else 0.0
            held_unit, seen_unit = (torch.nn.functional.normalize(of_split - mean, dim=1) for of_split in features)
            cosines, nearest = (held_unit @ seen_unit.T).topk(min(count, len(columns)))  # (N, count) each
            triples = cosines, rows[:, None].expand_as(nearest), columns[nearest]
            pairs += zip(*(values.flatten().tolist() for values in triples), strict=True)
    pairs.sort(key=lambda pair: -pair[0])
    enough = max(AT_LEAST, sum(cosine >= LEAST_COSINE for cosine, *_ in pairs))
    return [(row, column) for _, row, column in pairs[:enough]]


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
