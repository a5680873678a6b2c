"""Sets of classes that hold the true one so many times in a hundred: how sure an answer is, as a promise.

A class is in a photo's set if it is at least as probable as the true classes of most validation photos were: split
conformal prediction (Vovk et al. 2005) with the sets that are smallest on average (Sadinle et al. 2019). The promise
holds for photos like the validation photos, averaged over draws of these; that they also chose the epoch makes it a
little too good. How the sets keep it on other photos is in docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def least_probability(scores: Sequence[float], level: float) -> float:
    """Return the probability from which on a class is in the set. 0, so every class, where there are too few scores.

    `scores`: lowest first. `level`: how many of 100 sets hold the true class, above 0 and below 100. Of n photos and
    the one to come, so many in a hundred are at least as probable as the one that is returned (Vovk et al. 2005).
    """
    outside = math.floor((len(scores) + 1) * (100 - level) / 100 + 1e-9)  # 0.05 * 20 is a little less than 1
    return scores[outside - 1] if outside else 0.0


def members(probabilities: ArrayLike, least: float) -> list[int]:
    """Return the classes in the set of a photo with these probabilities (C,), likeliest first; at least that one."""
    probabilities = np.asarray(probabilities)
    number = max(int((probabilities >= least).sum()), 1)
    return likeliest_first(probabilities)[:number]


def likeliest_first(probabilities: np.ndarray) -> list[int]:
    """Return all classes of a photo with these probabilities (C,); of two that are as likely, the first one first."""
    return np.argsort(-probabilities, kind="stable").tolist()
