"""Whether mirror images of the training photos look like photos of another class, as those of arrows and letters do.

Each photo is given the class whose mean is nearest, in the features that the head learns from: linear discriminant
analysis, where these are whitened. Of a class of flowers or hand signs, at most 3 in 10 mirror images go to the same
other class; of arrows that point left or right, 6 to 10 in 10 (docs/measurements.md).
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.feature_bank import balanced_sample

MOST_PHOTOS = 2_000  # that are looked at
LEAST_SHARE = 0.5  # of a class's mirror images: so many must go to one other class
CLEARLY = 3  # standard errors by which more mirror images than plain photos must go there


def mirror_swaps(train: Inputs) -> dict[int, int]:
    """Return the classes whose mirror images mostly look like one other class, each with that class; often none.

    `train`: the training photos, of which view 1 is the mirror image of view 0.
    """
    sample = torch.tensor(balanced_sample(train.labels.tolist(), MOST_PHOTOS))
    present, classes = train.labels[sample].unique(return_inverse=True)
    plain, mirrored = (train.rows(view)[sample].float() for view in (0, 1))  # (N, D)
    if train.whitening is None:
        centre = plain.mean(dim=0)
        plain, mirrored = (F.normalize(rows - centre) for rows in (plain, mirrored))
    sizes = torch.bincount(classes)
    sums = torch.zeros(len(present), plain.shape[1]).index_add_(0, classes, plain)  # (C, D)
    means, others = sums / sizes[:, None], sums[classes] - plain
    others /= (sizes[classes] - 1).clamp(min=1)[:, None]  # (N, D): of each class without the photo itself

    def nearest(rows: torch.Tensor) -> torch.Tensor:
        """Return how many photos of each class go to which, (C, C)."""
        logits = rows @ means.T - means.square().sum(dim=1) / 2  # (N, C)
        logits[torch.arange(len(rows)), classes] = (rows * others).sum(dim=1) - others.square().sum(dim=1) / 2
        counts = torch.zeros(len(present), len(present))
        return counts.index_put_((classes, logits.argmax(dim=1)), torch.ones(len(rows)), accumulate=True)

    of_mirrored, of_plain = nearest(mirrored).fill_diagonal_(0), nearest(plain)
    taken, rivals = of_mirrored.max(dim=1)  # (C,) each
    before = of_plain.gather(1, rivals[:, None])[:, 0]
    swapped = (taken >= LEAST_SHARE * sizes) & (taken > before)
    more, total = (taken - before)[swapped].sum().item(), (taken + before)[swapped].sum().item()
    if more <= CLEARLY * math.sqrt(total):
        return {}
    return {int(present[index]): int(present[rivals[index]]) for index in swapped.nonzero()[:, 0].tolist()}
