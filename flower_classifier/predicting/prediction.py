"""What is predicted of a photo, and the ways in which predictions can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import numpy as np

    from flower_classifier.photos.images import PhotoSource

# A prediction as programs read it; "class" is no name that Python has for a field
Row = TypedDict("Row", {"class": str, "name": str, "probability": float})


@dataclass(frozen=True)
class Answer:
    """What a network makes of one photo."""

    photo: PhotoSource
    features: np.ndarray  # float32 (D,), what the head sees
    logits: np.ndarray  # float32 (C,)
    distance: float | None  # squared distance from the training features; None if the checkpoint keeps none


@dataclass(frozen=True)
class Prediction:
    """A class, what people call it, and how likely it is."""

    class_name: str  # the folder at training
    name: str
    probability: float  # 0 to 1

    def plain(self) -> Row:
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
    min_probability: float = 0.0  # 0 to 1, below which the likeliest class is not sure; 0: nobody asks
    members: Sequence[Prediction] | None = None  # the classes in its set, likeliest first; None: nobody asks
    neighbours: Sequence[Neighbour] | None = None  # the most alike first; None: nobody asks
    p_known: float | None = None  # share of photos of known classes that are as strange; None: not asked or not known
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
        return self.predictions[0].probability >= self.min_probability if self.min_probability else None

    def plain(self) -> dict[str, object]:
        """Return it under the keys that programs read: those beside the photo's path."""
        known_entries = {} if self.p_known is None else {"known": self.known, "p_known": self.p_known}
        sure = {} if self.sure is None else {"sure": self.sure}
        members = {} if self.members is None else {"set": [prediction.class_name for prediction in self.members]}
        alike = {} if self.neighbours is None else {"neighbours": [neighbour.plain() for neighbour in self.neighbours]}
        likeliest = {"predictions": [prediction.plain() for prediction in self.predictions]}
        return {**known_entries, **sure, **likeliest, **members, **alike}


class Result(list[Row]):
    """The answer to one photo: its likeliest classes, likeliest first, and beside them how far they can be relied on.

    It is a list of dicts {"class": folder at training, "name": what people call it, "probability": 0 to 1}.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(prediction.plain() for prediction in verdict.predictions)
        # Whether the photo is of one of the classes at all; None where the checkpoint cannot tell
        self.known: bool | None = verdict.known
        # Share of photos of the classes that look at least as strange, 0 to 1: small for a stranger; None as above
        self.p_known: float | None = verdict.p_known
        # The smallest set of class folders, likeliest first, that holds the true one as often as asked for; or None
        members = verdict.members
        self.set: list[str] | None = None if members is None else [prediction.class_name for prediction in members]

    def plain(self) -> dict[str, object]:
        """Return all of it as one object for JSON: {"known": …, "p_known": …, "predictions": […], "set": […]}."""
        return {"known": self.known, "p_known": self.p_known, "predictions": list(self), "set": self.set}
