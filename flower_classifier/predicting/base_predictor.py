"""What can be asked about photos, and what is predicted of them, whatever runs the network.

A subclass takes photos to answers, by torch or, for an exported folder, by onnxruntime: features, logits, a distance.
What they are worth is told here, without torch.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsIndex, TypedDict, cast, overload

import numpy as np

from flower_classifier.base.console import Bar
from flower_classifier.base.messages import InputError, RunError
from flower_classifier.config.allowed import DEFAULT_RATE, DEFAULT_SETS, DEFAULT_TOP_K
from flower_classifier.judging.conformal import StrangerTest, doubts, least_probability, likeliest_first, members
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.mending import warn_of_damaged
from flower_classifier.photos.sources import Photo, chunks_of, is_one_photo
from flower_classifier.photos.views import Preprocessing

# Photos of a generator that are answered before it is asked for more: what it makes is not all kept. A multiple of
# every micro-batch, and on a CPU enough for every worker, so that the digits are those of a list
AT_A_TIME = 64
# A process id for each call of any predictor that is being answered. A forked process inherits its parent's for ever
answering_processes: list[int] = []
BROKEN = "the checkpoint answers with nan or infinity: its weights are broken; train again"


# A prediction as programs read it; "class" is no name that Python has for a field
Row = TypedDict("Row", {"class": str, "name": str, "probability": float})


@dataclass(frozen=True)
class Answer:
    """What a network makes of one photo."""

    photo: Photo
    features: np.ndarray  # float32 (D,), what the head sees
    logits: np.ndarray  # float32 (C,)
    distance: float | None  # how far from the classes (judging/strangers.py); None where strangers cannot be told


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


class BasePredictor(ABC):
    """A trained classifier, ready to be asked what is in photos. Call it with a photo, or with a list of photos."""

    preprocessing: Preprocessing  # how it sees photos
    classes: tuple[str, ...]  # class folders, in the order of the logits
    names: list[str]  # what people call them, in the same order
    temperature: float  # logits are divided by it before the softmax
    set_scores: list[float]  # validation scores for prediction sets; empty where the run never ended
    stranger_test: StrangerTest | None  # tells strangers from photos of the classes; None: they cannot be told
    remembers_photos: bool = False  # whether it can name training photos

    @abstractmethod
    def answers(
        self, photos: Sequence[Photo], bar: Bar | None = None, altogether: int = 0
    ) -> Iterator[Answer | ImageError]:
        """Yield what the network makes of each photo, in order, or what is wrong with it. The bar counts photos.

        `altogether`: how many photos there are, where these are only some. It decides how cores are shared, and so the
        last digits.
        """

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Mark a call as being answered until the block ends. Raises RunError in one forked during another call.

        Locks, and the network's own threads, were copied as they were then, and would be waited for without end.
        """
        process = os.getpid()
        if any(other != process for other in list(answering_processes)):
            advice = "start processes by spawn, or fork them while nothing is answered"
            raise RunError(f"this process was forked while another thread was answered: {advice}")
        answering_processes.append(process)
        try:
            yield
        finally:
            answering_processes.remove(process)

    def neighbours(self, answer: Answer, count: int) -> list[Neighbour]:
        """Return the `count` training photos most alike to the network. Raises ValueError where none are remembered."""
        raise ValueError("it remembers no photos")

    @overload
    def __call__(  # type: ignore[overload-overlap]  # text is text's letters, too, but never many photos
        self,
        photos: Photo,
        top_k: int = ...,
        stranger_rate: float = ...,
        sets: float = ...,
        on_error: Literal["raise"] = ...,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        photos: Iterable[Photo],
        top_k: int = ...,
        stranger_rate: float = ...,
        sets: float = ...,
        on_error: Literal["raise"] = ...,
    ) -> list[Result]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]  # as above
        self,
        photos: Photo,
        top_k: int = ...,
        stranger_rate: float = ...,
        sets: float = ...,
        *,
        on_error: Literal["return"],
    ) -> Result | InputError: ...

    @overload
    def __call__(
        self,
        photos: Iterable[Photo],
        top_k: int = ...,
        stranger_rate: float = ...,
        sets: float = ...,
        *,
        on_error: Literal["return"],
    ) -> list[Result | InputError]: ...

    def __call__(
        self,
        photos: Photo | Iterable[Photo],
        top_k: int = DEFAULT_TOP_K,
        stranger_rate: float = DEFAULT_RATE,
        sets: float = DEFAULT_SETS,
        on_error: Literal["raise", "return"] = "raise",
    ) -> object:
        """Return the `top_k` likeliest classes of a photo, likeliest first; of many photos, a list with those of each.

        A photo is a path, the bytes of a file, a file opened in binary mode, a Pillow image, an array of uint8
        (H, W, 3) or (H, W), or a tensor of torch's, uint8 (3, H, W), (1, H, W) or (H, W). Many are a list, a generator
        or any other iterable that has an order. Beside the classes, a result says whether the photo is `known`: of one
        of the classes at all. At most `stranger_rate` of 100 photos of the classes are wrongly called unknown. Its
        `set` of classes holds the true one for `sets` of 100 photos. Both are None where the checkpoint cannot tell, or
        for 0.

        Several threads may ask at once, and processes forked from this one. Raises ImageError for a photo that cannot
        be opened; with `on_error="return"` that error stands in the photo's place instead. Raises InputError for an
        option that makes no sense or a checkpoint whose weights are broken, and RunError in a forked process that
        cannot be answered.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, SupportsIndex) or top_k < 1:
            raise InputError(f"must be a whole number of at least 1, not {top_k}", "top_k")
        for value, option in ((stranger_rate, "stranger_rate"), (sets, "sets")):
            if not 0 <= value < 100:
                raise InputError(f"must be at least 0 and below 100, not {value}", option)
        if on_error not in ("raise", "return"):
            raise InputError(f"must be raise or return, not {on_error}", "on_error")
        rate, least = self.promisable_rate(stranger_rate), self.least_in_sets(sets)
        is_one = is_one_photo(photos)
        many = cast("Iterable[Photo]", [photos] if is_one else photos)
        results: list[Result | ImageError] = []
        for chunk in [many] if isinstance(many, list | tuple) else chunks_of(many, AT_A_TIME):
            with self.answering():
                answers = list(self.answers(chunk, altogether=len(results) + len(chunk)))
                warn_of_damaged()
            for answer in answers:
                if isinstance(answer, ImageError):
                    if on_error == "raise":
                        raise answer
                    results.append(answer)
                else:
                    results.append(Result(self.verdict(answer, top_k, rate, least)))
        return results[0] if is_one else results

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
        return self.stranger_test.p_value((doubts(self.probabilities(answer)[None])[0], answer.distance))

    def probabilities(self, answer: Answer) -> np.ndarray:
        """Return the probability of each class, float64 (C,): as precise as those that sets are made by."""
        scaled = answer.logits.astype(np.float64) / self.temperature
        powers = np.exp(scaled - scaled.max())
        return powers / powers.sum()

    def named(self, indices: Sequence[int], probabilities: np.ndarray) -> list[Prediction]:
        """Return some classes with their names and probabilities."""
        return [Prediction(self.classes[index], self.names[index], float(probabilities[index])) for index in indices]
