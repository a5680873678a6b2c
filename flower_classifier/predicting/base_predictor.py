"""What can be asked about photos, whatever runs the network: torch here, onnxruntime for an exported folder.

A subclass takes photos to answers: features, logits, a distance. What they are worth is told here, without torch.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from PIL import Image

from flower_classifier.base.console import Bar
from flower_classifier.base.errors import InputError
from flower_classifier.config.allowed import DEFAULT_RATE, DEFAULT_SETS, DEFAULT_TOP_K
from flower_classifier.judging.conformal import StrangerTest, least_probability, likeliest_first, members
from flower_classifier.photos.images import ImageError, PhotoSource
from flower_classifier.predicting.prediction import Answer, Neighbour, Prediction, Result, Verdict

Many = list[PhotoSource] | tuple[PhotoSource, ...]  # photos, to be answered by a list
Photo = TypeVar("Photo", bound=PhotoSource)  # of one kind, such as paths
BROKEN = "the checkpoint answers with nan or infinity: its weights are broken; train again"


class BasePredictor(ABC):
    """A trained classifier, ready to be asked what is in photos. Call it with a photo, or with a list of photos."""

    classes: tuple[str, ...]  # class folders, in the order of the logits
    names: list[str]  # what people call them, in the same order
    temperature: float  # logits are divided by it before the softmax
    set_scores: list[float]  # validation scores for prediction sets; empty for old checkpoints
    stranger_test: StrangerTest | None  # tells strangers from photos of the classes; None: they cannot be told
    remembers_photos: bool = False  # whether it can name training photos

    @abstractmethod
    def answers(
        self, photos: Sequence[PhotoSource], bar: Bar | None = None, altogether: int = 0
    ) -> Iterator[Answer | ImageError]:
        """Yield what the network makes of each photo, in order, or what is wrong with it. The bar counts photos.

        `altogether`: how many photos there are, where these are only some. It decides how cores are shared, and so the
        last digits.
        """

    def alone(self) -> contextlib.AbstractContextManager[object]:
        """Return the context that a thread enters to be answered, where only one can be at a time."""
        return contextlib.nullcontext()

    def neighbours(self, answer: Answer, count: int) -> list[Neighbour]:
        """Return the `count` training photos most alike to the network. Raises ValueError where none are remembered."""
        raise ValueError("it remembers no photos")

    @overload
    def __call__(
        self, photos: PhotoSource, top_k: int = ..., stranger_rate: float = ..., sets: float = ...
    ) -> Result: ...

    @overload
    def __call__(
        self, photos: Many, top_k: int = ..., stranger_rate: float = ..., sets: float = ...
    ) -> list[Result]: ...

    @overload
    def __call__(
        self, photos: list[Photo], top_k: int = ..., stranger_rate: float = ..., sets: float = ...
    ) -> list[Result]: ...

    def __call__(
        self,
        photos: PhotoSource | Many | list[Photo],
        top_k: int = DEFAULT_TOP_K,
        stranger_rate: float = DEFAULT_RATE,
        sets: float = DEFAULT_SETS,
    ) -> Result | list[Result]:
        """Return the `top_k` likeliest classes of a photo, likeliest first; of a list of photos, such a list of each.

        A photo is a path, the bytes of a file, an open file, a Pillow image or an array (H, W, 3) of uint8. Beside the
        classes, a result says whether the photo is `known`: of one of the classes at all. At most
        `stranger_rate` of 100 photos of the classes are wrongly called unknown. Its `set` of classes holds the true one
        for `sets` of 100 photos. Both are None where the checkpoint cannot tell, or for 0.

        Several threads may ask at once. Raises ImageError for a photo that cannot be opened, and InputError for a
        number that makes no sense or a checkpoint whose weights are broken.
        """
        if type(top_k) is not int or top_k < 1:
            raise InputError(f"must be a whole number of at least 1, not {top_k}", "top_k")
        for value, option in ((stranger_rate, "stranger_rate"), (sets, "sets")):
            if not 0 <= value < 100:
                raise InputError(f"must be at least 0 and below 100, not {value}", option)
        rate, least = self.promisable_rate(stranger_rate), self.least_in_sets(sets)
        with self.alone():
            answers = list(self.answers(photos if isinstance(photos, list | tuple) else [photos]))
        results = []
        for answer in answers:
            if isinstance(answer, ImageError):
                raise answer
            results.append(Result(self.verdict(answer, top_k, rate, least)))
        return results if isinstance(photos, list | tuple) else results[0]

    # ------------------------------------------------------------------------------------------ what an answer is worth

    def verdict(self, answer: Answer, top_k: int, rate: float | None = None, least: float | None = None) -> Verdict:
        """Return the likeliest classes, whether the photo is known at this rate, and the set from `least` on."""
        return Verdict(
            self.likeliest(answer, top_k),
            members=None if least is None else self.set_of(answer, least),
            p_known=None if rate is None else self.p_known(answer),
            stranger_rate=rate or 0.0,
        )

    def promisable_rate(self, rate: float) -> float | None:
        """Return `rate`, or 0 (nothing is called a stranger) with too few validation photos to guarantee it.

        None for a rate of 0, or where strangers cannot be told.
        """
        if not rate or self.stranger_test is None:
            return None
        return rate if self.stranger_test.can_promise(rate) else 0.0

    def least_in_sets(self, level: float) -> float | None:
        """Return the least probability of the classes in a photo's set, for sets that hold the true class so often.

        `level` in percent. None for a level of 0, or where sets cannot be made.
        """
        return least_probability(self.set_scores, level) if level and self.set_scores else None

    def likeliest(self, answer: Answer, top_k: int = DEFAULT_TOP_K) -> list[Prediction]:
        """Return the `top_k` likeliest of all classes, likeliest first; all where there are no more."""
        probabilities = self.probabilities(answer)
        return self.named(likeliest_first(probabilities)[:top_k], probabilities)

    def set_of(self, answer: Answer, least: float) -> list[Prediction]:
        """Return the set of classes with at least this probability, likeliest first; at least the likeliest."""
        probabilities = self.probabilities(answer)
        return self.named(members(probabilities, least), probabilities)

    def p_known(self, answer: Answer) -> float:
        """Return the share of photos of known classes that are at least as strange: small for a stranger.

        Raises ValueError where the checkpoint cannot tell strangers.
        """
        if self.stranger_test is None or answer.distance is None:
            raise ValueError("the checkpoint cannot tell strangers")
        return self.stranger_test.p_value((-self.probabilities(answer).max(), answer.distance))

    def probabilities(self, answer: Answer) -> np.ndarray:
        """Return the probability of each class, float64 (C,): as precise as those that sets are made by."""
        scaled = answer.logits.astype(np.float64) / self.temperature
        powers = np.exp(scaled - scaled.max())
        return powers / powers.sum()

    def named(self, indices: Sequence[int], probabilities: np.ndarray) -> list[Prediction]:
        """Return some classes with their names and probabilities."""
        return [Prediction(self.classes[index], self.names[index], float(probabilities[index])) for index in indices]


def settled(photo: PhotoSource) -> PhotoSource:
    """Return a photo that several workers may open at once: a file is read, a lazy picture is loaded, here and now."""
    if isinstance(photo, Image.Image):
        with contextlib.suppress(Exception):  # opening it will say what is wrong
            photo.load()
    elif not isinstance(photo, str | bytes | np.ndarray | Path):
        if photo.seekable():
            photo.seek(0)
        return photo.read()
    return photo
