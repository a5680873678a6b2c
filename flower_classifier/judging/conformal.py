"""Conformal prediction: sets that hold the true class as often as promised, and p-values for strangers.

No torch is needed: exported folders use it too. A class is in a photo's set if it is at least as probable as the
true classes of most validation photos were: split conformal prediction (Vovk et al. 2005) with the sets that are
smallest on average (Sadinle et al. 2019). The promise holds for photos like the validation photos, averaged over draws
of these; that they also chose the epoch makes it a little too good. How the sets keep it on other photos is in
docs/calibration.md.

How strange a photo is among the validation photos is a p-value.

    stranger_test = StrangerTest(checkpoint.trust.stranger_scores, checkpoint.trust.stranger_measure)
    stranger_test.p_value(score)         small for a stranger

A photo has two scores, one for each kind of evidence in strangers.py, and each of them a rank among the validation
photos. The weighted harmonic mean of the two ranks says how strange it is: Wilson's way to combine p-values (2019), in
which one small p-value is enough, whatever the other is. The share of validation photos that are at least as strange
gives the p-value (conformal prediction: Vovk et al. 2005). For photos drawn like the validation photos,
P(p-value <= 5 %) <= 5 %, however good or bad the scores are. The validation photos also chose the epoch, and perhaps a
temperature, which makes this a little too good.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from flower_classifier.config.allowed import StrangerMeasure


def least_probability(scores: Sequence[float], level: float) -> float:
    """Return the probability from which on a class is in the set. 0, so every class, where there are too few scores.

    `scores`: lowest first. `level`: how many of 100 sets hold the true class, above 0 and below 100. Of n validation
    photos and a new one, so many in a hundred have a true class that is at least as probable (Vovk et al. 2005).
    """
    outside = math.floor((len(scores) + 1) * (100 - level) / 100 + 1e-9)  # 0.05 * 20 is a little less than 1
    return scores[min(outside, len(scores)) - 1] if outside else 0.0  # a level near 0 would leave out more than all


def members(probabilities: ArrayLike, least: float) -> list[int]:
    """Return the classes in the set of a photo with these probabilities (C,), likeliest first: never none."""
    probabilities = np.asarray(probabilities)
    size = max(int((probabilities >= least).sum()), 1)
    return likeliest_first(probabilities)[:size]


def likeliest_first(probabilities: np.ndarray) -> list[int]:
    """Return all classes of a photo with these probabilities (C,); of two that are as likely, the first one first."""
    return np.argsort(-probabilities, kind="stable").tolist()


# ------------------------------------------------------------------------------------------------------------- p-values


def doubts(probabilities: np.ndarray) -> np.ndarray:
    """Return how undecided answers are, (N,) from probabilities (N, C): higher is stranger."""
    return -probabilities.max(axis=1)


class StrangerTest:
    """The conformal test whether a photo shows any known class: `scores` (N, 2) are those of the validation photos."""

    def __init__(self, scores: ArrayLike, measure: StrangerMeasure) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)  # (N, 2)
        self.doubt_weight = measure.doubt_weight
        # How many of the validation photos are at least as strange as each, itself included, int64 (N, 2)
        below = [np.searchsorted(np.sort(kind), kind) for kind in self.scores.T]
        self.ranks = len(self.scores) - np.stack(below, axis=1)

    @property
    def photos(self) -> int:
        """The number of validation photos that a photo is compared with."""
        return len(self.scores)

    def can_promise(self, rate: float) -> bool:
        """Say whether there are enough validation photos for a p-value as low as `rate` percent."""
        return rate / 100 * (1 + self.photos) >= 1

    def p_value(self, score: ArrayLike) -> float:
        """Return the share of photos of known classes that are at least as strange as one with these scores (2,).

        Above 0, at most 1. The photo is ranked among the validation photos, and each of those among all of them
        and the photo: all are treated alike, and the promise needs nothing else.
        """
        score = np.asarray(score)
        others = self.strangeness(self.ranks + (score >= self.scores))  # (N,)
        at_least = others >= self.strangeness(1 + (self.scores >= score).sum(axis=0))
        return (1 + int(at_least.sum())) / (1 + len(self.scores))

    def strangeness(self, ranks: np.ndarray) -> np.ndarray:
        """Return how strange photos with these ranks (..., 2) are by both kinds together: higher is stranger.

        The inverse of the ranks' weighted harmonic mean, or, in checkpoints of before, of their product (Fisher 1932).
        """
        by_doubt, by_distance = ranks[..., 0], ranks[..., 1]
        if self.doubt_weight is None:
            return 1 / (by_doubt * by_distance)
        return self.doubt_weight / by_doubt + 1 / by_distance
