"""A checkpoint, ready to be asked what is in photos.

    predictor = Predictor(Checkpoint.load(Path("checkpoint.pth")), torch.device("cpu"))
    predictor("rose.jpg")[0]          {"class": "74", "name": "rose", "probability": 0.96}

predict.py and programs that import the package ask the same object, so they get the same digits.
"""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from flower_classifier.base.console import Bar, progress
from flower_classifier.base.messages import InputError, RunError
from flower_classifier.features.batches import to_learner
from flower_classifier.features.extraction import MOST_WORKERS, extract, micro_batches, to_pixels
from flower_classifier.judging.conformal import StrangerTest
from flower_classifier.judging.heatmap import Heatmap, find_heatmap
from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.devices import torch_threads
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.images import ImageError, PhotoSource
from flower_classifier.photos.sources import Photo, settled
from flower_classifier.photos.views import open_views
from flower_classifier.predicting.base_predictor import BROKEN, Answer, BasePredictor, Neighbour


class Predictor(BasePredictor):
    """A checkpoint's classifier on a device, and the names of its classes."""

    one_at_a_time = threading.Lock()  # of all predictors: the number of torch's threads is the process's

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, category_names: Mapping[str, str] | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.classifier = checkpoint.classifier
        self.preprocessing = checkpoint.preprocessing
        self.frozen = FrozenBackbone(self.classifier, device)
        self.classes = checkpoint.classes
        named = replace(checkpoint, category_names=dict(category_names)) if category_names else checkpoint
        self.names = named.names
        trust = checkpoint.trust
        self.temperature, self.set_scores = trust.temperature, trust.set_scores
        scores, self.stranger_measure = trust.stranger_scores, trust.stranger_measure
        self.stranger_test = None if scores is None else StrangerTest(scores, self.stranger_measure)
        self.feature_bank = trust.feature_bank
        self.remembers_photos = trust.feature_bank is not None
        self.threads = torch.get_num_threads()
        self.process = os.getpid()

    def __reduce__(self) -> tuple[object, ...]:
        """Return what another process makes the same of: the checkpoint as in a file.

        As a network of tensors, multiprocessing would move them into shared memory under the feet of this process.
        """
        file = io.BytesIO()
        torch.save(self.checkpoint.to_plain(), file)
        return predictor_of, (
            file.getvalue(),
            str(self.frozen.device),
            dict(zip(self.classes, self.names, strict=True)),
        )

    @functools.cached_property
    def clusters(self) -> Clusters:
        """The classes in the feature bank, which there must be."""
        assert self.feature_bank  # as where there is stranger_test
        return Clusters(self.feature_bank, self.stranger_measure)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Serialise callers, each with torch's original thread count.

        A thread that began while another was answered has too few. A process that was forked from the one that loaded
        the checkpoint has one: of OpenMP's threads, which torch would wait for, a fork copies none. Raises RunError
        there as for any predictor, and where it has a GPU.
        """
        is_forked = os.getpid() != self.process
        if is_forked and self.frozen.device.type != "cpu":
            advice = "load the checkpoint in each process, or start processes by spawn"
            raise RunError(f"this process was forked from one that had taken the GPU: {advice}")
        with super().answering(), self.one_at_a_time, torch_threads(1 if is_forked else self.threads):
            yield

    def answers(
        self, photos: Sequence[Photo], bar: Bar | None = None, altogether: int = 0
    ) -> Iterator[Answer | ImageError]:
        """Yield what the network makes of each photo, in order, or what is wrong with it. The bar counts photos."""

        views = self.frozen.config.answer_views
        waiting: dict[int, PhotoSource | ImageError] = {}  # of the batches that are begun

        def begin() -> Iterator[tuple[range, Sequence[int]]]:
            for indices in micro_batches(len(photos), self.frozen.device):
                waiting.update((index, settled(photos[index])) for index in indices)
                yield indices, views

        def open_photo(index: int, views: Sequence[int]) -> np.ndarray:
            photo = waiting.pop(index)
            if isinstance(photo, ImageError):
                raise photo
            return open_views(photo, self.preprocessing, views)  # (V, S, S, 3)

        if not photos:
            return
        batches = len(micro_batches(max(altogether, len(photos)), self.frozen.device))
        workers = min(batches, MOST_WORKERS)  # one for a single photo, with every core
        with progress(len(photos), "photos", "photo", hidden=bar is None) as own_bar:
            for done in extract(self.frozen, open_photo, begin(), bar or own_bar, workers):
                outcomes: dict[int, Answer | ImageError] = dict(done.errors)
                if done.indices:
                    opened = [photos[index] for index in done.indices]
                    answers = self.head_answers(opened, done.rows.values())
                    outcomes.update(zip(done.indices, answers, strict=True))
                for index in sorted(outcomes):
                    yield outcomes[index]

    @torch.inference_mode()
    def head_answers(self, photos: Sequence[Photo], views: Iterable[torch.Tensor]) -> list[Answer]:
        """Return the answers to photos (B,), on the CPU, from the frozen part's rows (B, ...) of each view."""
        features = [to_learner(rows, self.frozen.device) for rows in views]
        is_frozen = self.frozen.network is not None  # else the rows are pixels
        features = [(self.classifier.features_of if is_frozen else self.classifier.features)(rows) for rows in features]
        logits = torch.stack([self.classifier.head(view) for view in features]).mean(dim=0)  # (B, C)
        if not logits.isfinite().all():
            raise InputError(BROKEN)
        mean = torch.stack(features).mean(dim=0).float().cpu()  # (B, D)
        distances = self.clusters.distances(mean).tolist() if self.stranger_test else [None] * len(mean)
        return [Answer(*fields) for fields in zip(photos, mean.numpy(), logits.cpu().numpy(), distances, strict=True)]

    def heatmap(self, photo: PhotoSource, class_name: str, size: tuple[int, int]) -> Heatmap | None:
        """Return which places of a photo of `size` (width, height) speak for a class.

        None for an architecture without a last feature map, such as a vision transformer. Raises ImageError.
        """
        pixels = to_pixels([open_views(photo, self.preprocessing)]).to(self.frozen.device)  # (1, 1, 3, S, S)
        return find_heatmap(self.classifier, pixels[0, 0], self.classes.index(class_name), size)

    def neighbours(self, answer: Answer, count: int) -> list[Neighbour]:
        """Return the `count` training photos most alike to the network. Raises ValueError where none are remembered."""
        bank = self.feature_bank
        if bank is None:
            return super().neighbours(answer, count)
        return [
            Neighbour(bank.photos[index], self.classes[label], self.names[label], similarity)
            for index, similarity in bank.nearest(torch.from_numpy(answer.features), count)
            for label in [bank.labels[index]]
        ]


def predictor_of(data: bytes, device: str, names: Mapping[str, str]) -> Predictor:
    """Return the predictor that was pickled as this."""
    checkpoint = Checkpoint.from_plain(torch.load(io.BytesIO(data), weights_only=True))
    return Predictor(checkpoint, torch.device(device), names)
