"""A checkpoint, ready to be asked what is in photos.

    predictor = Predictor(load_checkpoint(Path("checkpoint.pth")), torch.device("cpu"))
    predictor("rose.jpg")[0]          {"class": "74", "name": "rose", "probability": 0.96}

predict.py and programs that import the package ask the same object, so they get the same digits.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import progress
from flower_classifier.features.extraction import MOST_WORKERS, extract, micro_batches, to_pixels
from flower_classifier.features.inputs import to_learner
from flower_classifier.judging.heatmap import Heatmap, find_heatmap
from flower_classifier.judging.prediction import DEFAULT_TOP_K, Neighbour, Prediction
from flower_classifier.judging.prediction_sets import members
from flower_classifier.judging.strangers import Familiarity
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.frozen import place
from flower_classifier.photos.images import ImageError, PhotoSource
from flower_classifier.photos.views import open_views

if TYPE_CHECKING:
    from tqdm import tqdm

BROKEN = "the checkpoint answers with nan or infinity: its weights are broken; train again"


@dataclass(frozen=True)
class Answer:
    """What the network makes of one photo."""

    photo: PhotoSource
    features: torch.Tensor  # (D,), what the head sees
    logits: torch.Tensor  # (C,)


class Predictor:
    """A checkpoint's classifier on a device, and the names of its classes."""

    one_at_a_time = threading.Lock()  # of all predictors: the number of torch's threads is the process's

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, category_names: Mapping[str, str] | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.classifier = checkpoint.classifier
        self.frozen = place(self.classifier, device)
        self.classes = checkpoint.classes
        named = replace(checkpoint, category_names=dict(category_names)) if category_names else checkpoint
        self.names = named.names  # what people call the classes, in the order of the logits
        self.threads = torch.get_num_threads()

    def __call__(
        self, photos: PhotoSource | Sequence[PhotoSource], top_k: int = DEFAULT_TOP_K
    ) -> list[dict[str, object]] | list[list[dict[str, object]]]:
        """Return the `top_k` likeliest classes of a photo, likeliest first; of a list of photos, such a list of each.

        A photo is a path, the bytes of a file, an open file, a Pillow image or an array (H, W, 3) of uint8. Several
        threads may ask at once; they are answered one after the other. Raises ImageError for a photo that cannot be
        opened, and InputError for a checkpoint whose weights are broken.
        """
        if type(top_k) is not int or top_k < 1:
            raise InputError(f"must be a whole number of at least 1, not {top_k}", "top_k")
        several = isinstance(photos, list | tuple)
        with self.one_at_a_time:
            if torch.get_num_threads() != self.threads:  # a thread that began while another was answered has too few
                torch.set_num_threads(self.threads)
            answers = list(self.answers(photos if several else [photos]))
        for answer in answers:
            if isinstance(answer, ImageError):
                raise answer
        predicted = [[row.plain() for row in self.likeliest(answer, top_k)] for answer in answers]
        return predicted if several else predicted[0]

    def answers(self, photos: Sequence[PhotoSource], bar: tqdm | None = None) -> Iterator[Answer | ImageError]:
        """Yield what the network makes of each photo, in order, or what is wrong with it. The bar counts photos."""

        def open_photo(index: int, views: Sequence[int]) -> np.ndarray:
            return open_views(photos[index], self.frozen.preprocessing, views)  # (V, S, S, 3)

        if not photos:
            return
        photos = [settled(photo) for photo in photos]
        views = self.frozen.config.answer_views
        work = [(indices, views) for indices in micro_batches(len(photos), self.frozen.device)]
        workers = min(len(work), MOST_WORKERS)  # for a single photo one, with every core
        with progress(len(photos), "photos", "photo", hidden=bar is None) as own_bar:
            for done in extract(self.frozen, open_photo, work, bar or own_bar, workers):
                outcomes: dict[int, Answer | ImageError] = dict(done.errors)
                if done.indices:
                    features, logits = self.head_answers(done.rows.values())
                    for row, index in enumerate(done.indices):
                        outcomes[index] = Answer(photos[index], features[row], logits[row])
                for index in sorted(outcomes):
                    yield outcomes[index]

    @torch.inference_mode()
    def head_answers(self, views: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the frozen part's rows (B, ...) of each view to mean features (B, D) and logits (B, C), on the CPU."""
        features = [to_learner(rows, self.frozen.device) for rows in views]
        if self.frozen.network is None:  # the rows are pixels
            features = [self.classifier.features(pixels) for pixels in features]
        logits = torch.stack([self.classifier.head(one) for one in features]).mean(dim=0)
        if not logits.isfinite().all():
            raise InputError(BROKEN)
        return torch.stack(features).mean(dim=0).cpu(), logits.cpu()

    def heatmap(self, photo: PhotoSource, class_name: str, size: tuple[int, int]) -> Heatmap | None:
        """Return which places of a photo of `size` (width, height) speak for a class.

        None for an architecture without a last feature map, such as a vision transformer. Raises ImageError.
        """
        pixels = to_pixels([open_views(photo, self.classifier.preprocessing)]).to(self.frozen.device)  # (1, 1, 3, S, S)
        return find_heatmap(self.classifier, pixels[0, 0], self.classes.index(class_name), size)

    def likeliest(self, answer: Answer, top_k: int = DEFAULT_TOP_K) -> list[Prediction]:
        """Return the `top_k` likeliest of all classes, likeliest first; all where there are no more."""
        probabilities = self.probabilities(answer)
        top = probabilities.topk(min(top_k, len(self.classes)))
        return self.named(top.indices.tolist(), probabilities)

    def set_of(self, answer: Answer, least: float) -> list[Prediction]:
        """Return the set of classes with at least this probability, likeliest first; at least the likeliest."""
        probabilities = self.probabilities(answer)
        return self.named(members(probabilities, least), probabilities)

    @functools.cached_property
    def familiarity(self) -> Familiarity | None:
        """What photos of the known classes look like, by which strangers are told, if the checkpoint knows."""
        memory, scores = self.checkpoint.memory, self.checkpoint.stranger_scores
        return None if memory is None or scores is None else Familiarity(memory, scores)

    def p_known(self, answer: Answer) -> float:
        """Return which share of photos of known classes is at least as strange: small for a stranger.

        The checkpoint must know what they look like.
        """
        if self.familiarity is None:
            raise ValueError("the checkpoint cannot tell strangers")
        return self.familiarity.p_known(answer.features, self.probabilities(answer))

    def neighbours(self, answer: Answer, number: int) -> list[Neighbour]:
        """Return so many training photos that look most alike to the network. The checkpoint must remember them."""
        memory = self.checkpoint.memory
        if memory is None:
            raise ValueError("the checkpoint remembers no photos")
        return [
            Neighbour(memory.photos[index], self.classes[label], self.names[label], similarity)
            for index, similarity in memory.nearest(answer.features, number)
            for label in [memory.labels[index]]
        ]

    def probabilities(self, answer: Answer) -> torch.Tensor:
        """Return the probability of each class, float64 (C,): as precise as those that sets are made by."""
        return (answer.logits.double() / self.checkpoint.temperature).softmax(dim=0)

    def named(self, indices: Sequence[int], probabilities: torch.Tensor) -> list[Prediction]:
        """Return some classes with their names and probabilities."""
        return [Prediction(self.classes[index], self.names[index], probabilities[index].item()) for index in indices]


def settled(photo: PhotoSource) -> PhotoSource:
    """Return a photo that several workers may open at once: a file is read, a lazy picture is loaded, here and now."""
    if isinstance(photo, Image.Image):
        with contextlib.suppress(Exception):  # opening it will say what is wrong
            photo.load()
    elif not isinstance(photo, str | Path | bytes | np.ndarray):
        if photo.seekable():
            photo.seek(0)
        return photo.read()
    return photo
