"""Limits of a number: they check it, and say themselves in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Which numbers are allowed: from `least`, or `above` a number, to `most`, or `below` one. None: no such end."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str = ""

    def allow(self, number: float) -> bool:
        """Say whether a number is within the limits; nan, which compares with nothing, is within none."""
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """`from 1 to 100,000`, `above 0 and at most 1000`, `at least 0 and below 1`."""
        if self.least is not None and self.most is not None:
            words = f"from {in_words(self.least)} to {in_words(self.most)}"
        else:
            ends = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
            words = " and ".join(f"{word} {in_words(end)}" for word, end in ends.items() if end is not None)
        return f"{words} {self.unit}".rstrip()


def in_words(number: float) -> str:
    """Write a number as people read it: `0.5`, `1000`, `100,000`, `2^63`."""
    if isinstance(number, int) and number > 2**31 and number.bit_count() == 1:
        return f"2^{number.bit_length() - 1}"
    return f"{number:,}" if abs(number) >= 10_000 else f"{number}"
