"""What a data doctor finds: the kinds of it, in the order in which they matter, and one finding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of finding."""

    name: str  # in doctor.csv
    shows: str  # what it is, for people: in the summary, on the contact sheet and in the documentation
    score_means: str  # the first of a kind is the one with the highest score


# A new kind needs a line here and in docs/doctor.md, and what yields it in studies/doctor.py
KINDS = (
    Kind("unreadable", "files that cannot be opened", "1"),
    Kind("leak", "photos that are also in another split", "how alike the two are, at most 1"),
    Kind("two_labels", "photos that lie under two classes", "how alike the two are, at most 1"),
    Kind("same_photo", "photos that are there twice", "how alike the two are, at most 1"),
    Kind(
        "label",
        "photos that look like another class",
        "how many times likelier the other class is, as a power of ten: 2 is a hundred times",
    ),
    Kind("outlier", "photos unlike any class", "how far it is beyond the middle half of the photos, in its widths"),
    Kind("blurry", "blurry photos", "how far it is beyond the middle half of the photos, in its widths"),
    Kind("dark", "dark photos", "how dark it is: 1 is black"),
    Kind("washed_out", "photos with hardly any contrast", "how little contrast it has: 1 is none"),
    Kind("tiny", "photos smaller than half of what the network sees", "how many times it is enlarged"),
    Kind("narrow", "photos of which the network sees less than a third", "its longer side, in its shorter sides"),
    Kind("small_class", "classes with few training photos", "how many are missing"),
    Kind("alike_classes", "pairs of classes that are often confused", "share of their photos that are, 0 to 1"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong, of a photo or of a class."""

    path: str  # below the data folder; a class ends in "/"
    kind: str  # the name of one of the KINDS
    score: float
    suggestion: str  # what to do about it, or what it looks like
    other: str = ""  # the photo or the class that it is like
    class_name: str = ""  # its class's folder; of a class, the class
    other_class: str = ""  # the folder of the class that it looks like, or that the other photo is in

    @property
    def row(self) -> list[object]:
        """What doctor.csv has of it."""
        return [self.path, self.kind, round(self.score, 4), self.suggestion, self.other]


HEADER = ["path", "finding", "score", "suggestion", "other"]


def ranked(findings: list[Finding]) -> list[Finding]:
    """Return findings by kind, and within a kind the highest score first."""
    order = {kind.name: place for place, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda one: (order[one.kind], -one.score, one.path))
