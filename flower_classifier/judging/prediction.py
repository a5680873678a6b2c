"""What is predicted of a photo, and the ways in which predictions can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_TOP_K = 5
DEFAULT_RATE = 5.0  # percent of the photos of known classes that are taken for strangers
FORMATS = ("text", "json", "jsonl", "csv")  # in which predictions are written; formats.py says how


@dataclass(frozen=True)
class Prediction:
    """A class, what people call it, and how likely it is."""

    class_name: str  # the folder at training
    name: str
    probability: float  # 0 to 1

    def plain(self) -> dict[str, object]:
        """Return it under the keys that programs read."""
        return {"class": self.class_name, "name": self.name, "probability": self.probability}


@dataclass(frozen=True)
class Neighbour:
    """A training photo that looks much like another photo to the network."""

    photo: str  # its name in the folder that training was given
    class_name: str
    name: str
    similarity: float  # a cosine, at most 1

    def plain(self) -> dict[str, object]:
        """Return it under the keys that programs read."""
        return {"path": self.photo, "class": self.class_name, "name": self.name, "similarity": self.similarity}


@dataclass(frozen=True)
class Verdict:
    """What is predicted of one photo: its likeliest classes, and how far they can be relied on."""

    predictions: Sequence[Prediction]  # likeliest first, at least one
    least: float = 0.0  # probability, 0 to 1, below which the likeliest class is not sure; 0: nobody asks
    members: Sequence[Prediction] | None = None  # the classes in its set, likeliest first; None: nobody asks
    neighbours: Sequence[Neighbour] | None = None  # the most alike first; None: nobody asks
    p_known: float | None = None  # share of photos of known classes that are as strange; None: nobody asks, or knows
    # Percent of photos of known classes that are taken for strangers; 0: too few validation photos to say who is one
    stranger_rate: float = 0.0

    @property
    def known(self) -> bool | None:
        """Whether the photo is taken to be of one of the classes; None where nobody asks, or knows."""
        if self.p_known is None or not self.stranger_rate:
            return None
        return self.p_known > self.stranger_rate / 100

    @property
    def sure(self) -> bool | None:
        """Whether the likeliest class is probable enough; None where nobody asks."""
        return self.predictions[0].probability >= self.least if self.least else None

    def plain(self) -> dict[str, object]:
        """Return it under the keys that programs read: those beside the photo's path."""
        known = {} if self.p_known is None else {"known": self.known, "p_known": self.p_known}
        sure = {} if self.sure is None else {"sure": self.sure}
        members = {} if self.members is None else {"set": [prediction.class_name for prediction in self.members]}
        alike = {} if self.neighbours is None else {"neighbours": [one.plain() for one in self.neighbours]}
        likeliest = {"predictions": [prediction.plain() for prediction in self.predictions]}
        return {**known, **sure, **likeliest, **members, **alike}
