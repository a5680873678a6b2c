"""How strange a photo is among the validation photos, as a p-value. No torch: exported folders answer by it too.

    familiarity = Familiarity(checkpoint.stranger_scores)
    familiarity.p_value(score)         small for a stranger

A photo has two scores, of the two kinds of evidence that strangers.py tells of, and is as strange as the product of its
two ranks among the validation photos says: Fisher's way to combine p-values (1932). How many validation photos are at
least as strange gives the p-value (conformal prediction: Vovk et al. 2005). Of photos that come as the validation
photos came, at most 5 % have one of at most 5 %, however good or bad the scores are. These photos also chose the epoch,
and perhaps a temperature, which makes this a little too good.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


class Familiarity:
    """What photos of the known classes look like: the scores of the validation photos, (N, 2)."""

    def __init__(self, scores: ArrayLike) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)  # (N, 2)
        # How many of the validation photos are at least as strange as each, itself among them, int64 (N, 2)
        below = [np.searchsorted(np.sort(kind), kind) for kind in self.scores.T]
        self.ranks = len(self.scores) - np.stack(below, axis=1)

    @property
    def photos(self) -> int:
        """The number of validation photos that a photo is compared with."""
        return len(self.scores)

    def can_promise(self, rate: float) -> bool:
        """Say whether there are photos enough for so many strangers in 100 photos of the classes."""
        return rate / 100 * (1 + self.photos) >= 1

    def p_value(self, score: ArrayLike) -> float:
        """Return the share of photos of known classes that are at least as strange as one with these scores (2,).

        Above 0, at most 1. The photo is ranked among the validation photos, and each of these among them and it, so
        that all are treated alike: nothing else does the promise need.
        """
        score = np.asarray(score)
        of_others = (self.ranks + (score >= self.scores)).prod(axis=1)  # (N,)
        own = (1 + (self.scores >= score).sum(axis=0)).prod()
        return (1 + int((of_others <= own).sum())) / (1 + len(self.scores))
