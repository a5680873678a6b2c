"""Where the time of a run goes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """Seconds of wall-clock time, by what they were spent on."""

    reading: float = 0.0  # opening photos and cutting views out of them
    computing: float = 0.0  # running the frozen part of a network over them
    training: float = 0.0  # training the learner, and judging it on the validation photos

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.reading + other.reading, self.computing + other.computing, self.training + other.training)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.reading - other.reading, self.computing - other.computing, self.training - other.training)
