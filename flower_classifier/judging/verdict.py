"""How many photos were right, as people should hear it: with how far chance may move it, and what guessing reaches.

str(AccuracyVerdict(52, 61, 0.2)) == "52 of 61 right: 85% (74 to 92%; guessing: 20%)"
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flower_classifier.base.messages import counted

ENOUGH_TO_TELL = 100  # photos: of fewer, the interval is wider than 12 % even where 90 % are right
TWO_SIDED_95 = 1.959964  # standard errors, of a normal distribution, that 95 of 100 draws stay within


def wilson(right: int, photos: int) -> tuple[float, float]:
    """Return the least and the largest share, 0 to 1, that `right` of `photos` agrees with, at 95 % confidence.

    The score interval: Wilson 1927. Unlike the share plus and minus its standard error, it keeps its promise for few
    photos, and where all or none are right (Brown, Cai and DasGupta 2001). Without photos it is 0 to 1.
    """
    if not photos:
        return 0.0, 1.0
    share, square = right / photos, TWO_SIDED_95**2
    middle = (share + square / (2 * photos)) / (1 + square / photos)
    variance = share * (1 - share) / photos + square / (4 * photos**2)
    reach = TWO_SIDED_95 * math.sqrt(variance) / (1 + square / photos)
    return (max(middle - reach, 0.0) if right else 0.0), (min(middle + reach, 1.0) if right < photos else 1.0)


def share_text(share: float, photos: int, unit: str = "%") -> str:
    """Write a share of some photos in percent, without digits that one photo more or less would change."""
    digits = 0 if photos < 100 else 1 if photos < 10_000 else 2
    return f"{100 * share:.{digits}f}{unit}"


@dataclass(frozen=True)
class AccuracyVerdict:
    """How many of some photos were predicted right."""

    right: int
    photos: int  # at least one
    guessing: float  # the share, 0 to 1, that is right if every photo is given the class that most of them have

    @property
    def share(self) -> float:
        """The accuracy, 0 to 1."""
        return self.right / self.photos

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracies that it agrees with, as `wilson` has them."""
        return wilson(self.right, self.photos)

    @property
    def lines(self) -> tuple[str, str]:
        """How many are right; and how far chance may move that, and what guessing reaches."""
        low, high = self.interval
        reach = f"{share_text(low, self.photos, unit='')} to {share_text(high, self.photos)}"
        counts = f"{self.right:,} of {self.photos:,} right: {share_text(self.share, self.photos)}"
        return counts, f"{reach}; guessing: {share_text(self.guessing, self.photos)}"

    def on_confidence(self, sure: float) -> str:
        """Say whether probabilities whose mean for the predicted class is `sure`, 0 to 1, agree with the accuracy."""
        low, high = self.interval
        if sure > high:
            return "too sure of itself"
        if sure < low:
            return "right more often than it says"
        limit = f", as far as {counted(self.photos, 'photo')} can tell" if self.photos < ENOUGH_TO_TELL else ""
        return f"can be believed{limit}"

    def __str__(self) -> str:
        return "{} ({})".format(*self.lines)
