"""Why epochs are nearly free: what the frozen backbone makes of a photo is computed once and kept.

A frozen backbone in eval mode gives the same answer every epoch. `extract_features` runs it over a split once a view;
`load_or_extract` keeps the result; `epoch_batches` hands it out in an epoch's order. A model trained whole
(`cnn`) has no frozen part: its "features" are the photo's pixels, and everything else here is the same.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NoReturn

import numpy as np
import torch

from data_utils import Split, fold_seed
from images import ImageError, load_image, preset_view, random_view
from model_utils import Classifier
from terminal import InputError, counted, progress

MICRO_BATCH = 16  # photos a forward; small, so that a CPU's caches hold the activations
FEW_BAD = 5  # how many unusable photos an error lists by name

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, ...), labels (B,)


class Inputs:
    """One split as the trainee sees it: a tensor a view, extracted when first asked for, then kept in memory."""

    def __init__(self, split: Split, classifier: Classifier, seed: int, device: torch.device) -> None:
        self.split, self.classifier, self.seed, self.device = split, classifier, seed, device
        self.labels = torch.tensor(split.labels)  # (N,)
        self.views: dict[int, torch.Tensor] = {}

    def load_or_extract(self, view: int) -> torch.Tensor:
        """Return the inputs (N, ...) of a view, in the order of the split's photos."""
        if view not in self.views:
            self.views[view] = extract_features(self.classifier, self.split, view, self.seed, self.device)
        return self.views[view]


def epoch_batches(inputs: Inputs, batch_size: int, view: int = 0, shuffle_seed: int | None = None) -> Iterator[Batch]:
    """Return an iterator over the batches of a view, on the inputs' device.

    The order is drawn from `shuffle_seed`, or the split's own without one. A view is extracted here, if need be.
    """
    rows, labels = inputs.load_or_extract(view), inputs.labels
    order = torch.arange(len(labels))
    if shuffle_seed is not None:
        order = torch.from_numpy(np.random.default_rng(shuffle_seed).permutation(len(labels)))
    return ((rows[some].to(inputs.device), labels[some].to(inputs.device)) for some in order.split(batch_size))


def extract_features(classifier: Classifier, split: Split, view: int, seed: int, device: torch.device) -> torch.Tensor:
    """Run the frozen part of the classifier over every photo of a split.

    Returns (N, D) float32 features, or for a model trained whole the (N, 3, S, S) uint8 pixels. One thread a core
    takes a micro-batch from its files to its features. Micro-batches are the same whatever the number of threads,
    and so are the results, bit for bit. Raises InputError that lists the photos that cannot be used.
    """
    rows = torch.empty(len(split), *classifier.trainee_input_shape, dtype=classifier.trainee_input_dtype)
    turn = contextlib.nullcontext() if device.type == "cpu" else threading.Lock()  # one forward at a time on a GPU
    bad: list[tuple[int, ImageError]] = []

    def extract(chosen: range) -> int:
        """Fill the rows of one micro-batch."""
        readable = []
        for index in chosen:
            try:
                readable.append((index, view_of_photo(classifier, split, index, view, seed)))
            except ImageError as error:
                bad.append((index, error))
        if not bad:  # from the first bad photo on, all that is left to do is to find the others
            pixels = torch.stack([pixels for _, pixels in readable])  # (B, 3, S, S)
            with turn, torch.inference_mode():
                rows[chosen.start : chosen.stop] = classifier.frozen_part(pixels.to(device)).cpu()
        return len(chosen)

    micro_batches = [range(i, min(i + MICRO_BATCH, len(split))) for i in range(0, len(split), MICRO_BATCH)]
    what = f"{split.name} photos, view {view}"
    with single_threaded_torch(), worker_threads() as pool, progress(len(split), what, "photo") as bar:
        for done in as_completed([pool.submit(extract, chosen) for chosen in micro_batches]):
            bar.update(done.result())
    if bad:
        refuse_bad_photos([error for _, error in sorted(bad, key=lambda pair: pair[0])], len(split))
    return rows


def view_of_photo(classifier: Classifier, split: Split, index: int, view: int, seed: int) -> torch.Tensor:
    """Open a photo and cut the view of it: a function of seed, view and the photo's name. uint8 (3, S, S)."""
    photo = split.photos[index]
    image = load_image(split.root / photo)
    if view == 0:
        return preset_view(image, classifier.preprocessing)
    rng = np.random.default_rng(fold_seed(seed, "view", view, photo))
    return random_view(image, classifier.preprocessing, rng)


def refuse_bad_photos(errors: list[ImageError], photos: int) -> NoReturn:
    """Raise one error that lists the first few bad photos and counts the rest."""
    listed = "\n".join(f"  {error}" for error in errors[:FEW_BAD])
    rest = f"\n  and {len(errors) - FEW_BAD} more" if len(errors) > FEW_BAD else ""
    raise InputError(f"{len(errors)} of {counted(photos, 'photo')} cannot be used; repair or remove:\n{listed}{rest}")


@contextlib.contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Give one thread a core; on an error or an interrupt, drop the work that has not begun."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(cores)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Let every operation run on its own thread alone, while there are as many threads as cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
