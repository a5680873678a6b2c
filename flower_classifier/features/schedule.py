"""Which view of the photos an epoch uses, and which views are computed together.

Epoch 1 uses view 0, epoch 2 view 1, and so on, over and over. A view is computed when the first epoch that uses it
begins, and with it the other view of its pair: opening a photo costs about as much as a small network's forward.
"""

from __future__ import annotations

from dataclasses import dataclass

VIEWS_PER_DECODE = 2  # views 0 and 1, 2 and 3, ...


@dataclass(frozen=True)
class Schedule:
    """The views of a run's training photos."""

    views: int  # how many there are
    epochs: int  # how many epochs use them in turn

    def view_of(self, epoch: int) -> int:
        """Return the view that an epoch uses; epochs count from 1."""
        return (epoch - 1) % self.views

    @property
    def used(self) -> int:
        """How many different views the run uses: the first ones, in order."""
        return min(self.views, self.epochs)

    def together(self, view: int) -> list[int]:
        """Return the views that are computed when this one is needed."""
        first = view - view % VIEWS_PER_DECODE
        return [other for other in range(first, first + VIEWS_PER_DECODE) if other == view or other < self.used]

    @property
    def passes(self) -> list[list[int]]:
        """Views by the passes over the photos in which they are computed."""
        return [self.together(first) for first in range(0, self.used, VIEWS_PER_DECODE)]


PLAIN_VIEW = Schedule(views=1, epochs=1)  # of photos that are only looked at
