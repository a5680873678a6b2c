"""How numbers, lists and other people's texts are put into messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

# Letters that steer a terminal or have no encoding: controls, line and text direction, stray bytes of a file's name
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST_REASON = 160  # letters of another library's error message that are passed on
NAMED = 3  # how many items a message names before it only counts the rest


def first_few(items: Sequence[object], most: int = NAMED) -> str:
    """Name the first few of the items and count the rest: `a, b, c and 7 more`."""
    named = ", ".join(printable(str(item)) for item in items[:most])
    return f"{named} and {len(items) - most} more" if len(items) > most else named


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 photo`, `2,039 photos`, `3 classes`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def spoken(split: str) -> str:
    """Return what a split is called in a sentence: "train" and "valid" are names of folders."""
    return {"train": "training", "valid": "validation"}.get(split, split)


def photos_of(split: str, number: int) -> str:
    """`819 test photos`, `1 validation photo` of the split valid; photos of no split are `90 photos`."""
    return counted(number, f"{spoken(split)} photo".strip())


def megabytes(*sizes: int) -> str:
    """`345.0 MB`, `12.0 of 345.0 MB`."""
    return " of ".join(f"{size / 1e6:,.1f}" for size in sizes) + " MB"


def nearest(word: str, known: Iterable[str], most: int = 4) -> list[str]:
    """Return the known words that look most like a mistyped one, best first."""
    return difflib.get_close_matches(word, list(known), n=most, cutoff=0.6)


def printable(text: str) -> str:
    """Escape what would steer the terminal or cannot be encoded."""
    return "".join(ascii(letter)[1:-1] if STEERING.fullmatch(letter) else letter for letter in text)


def shown(message: str) -> str:
    """Make each line of a message printable: it may quote a file's name, or what a stranger's file holds.

    Lines after the first are indented, so that none that such a name brings can pass for a message of its own.
    """
    first, *others = (printable(line) for line in message.split("\n"))
    return "\n".join([first, *(f"  {line.removeprefix('  ')}" for line in others)])


def percent(probability: float, digits: int) -> str:
    """Write a probability in percent. Only certainty is 100 %, so that nothing else is rounded to it, or to 0 %."""
    least = 10.0**-digits
    if 100 * probability < least:
        return f"< {least:.{digits}f}%"
    if 100 * probability > 100 - least:
        return f"> {100 - least:.{digits}f}%"
    return f"{probability:.{digits}%}"


def reason_of(error: object) -> str:
    """Return what an error of a library below says, in one line of a length that people read."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 1] + "…"
