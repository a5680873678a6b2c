"""Why epochs are nearly free: what the frozen backbone makes of a photo is computed once and kept.

A frozen backbone in eval mode gives the same answer every epoch. `extract_inputs` runs it over the photos, an
`Inputs` keeps what comes out, `epoch_batches` hands that out in an epoch's order. A model trained whole (`cnn`) has
no frozen part: its "features" are the photo's pixels, and everything else here is the same.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from data_utils import Split, Splits
from devices import MICRO_BATCH
from images import ImageError, load_image, preset_view, random_view
from model_utils import Classifier
from randomness import generator
from terminal import InputError, counted, note, progress

MOST_THREADS = 8  # each holds the activations of a micro-batch
FEW_BAD = 5  # how many unusable photos an error lists by name

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, ...), labels (B,)


class UnusablePhotosError(InputError):
    """Photos that cannot be opened: one error that lists the first few and counts the rest."""

    def __init__(self, errors: list[ImageError]) -> None:
        self.errors = errors
        listed = "\n".join(f"  {error}" for error in errors[:FEW_BAD])
        rest = f"\n  and {len(errors) - FEW_BAD} more" if len(errors) > FEW_BAD else ""
        super().__init__(f"{counted(len(errors), 'photo')} cannot be used; repair or remove them:\n{listed}{rest}")


class Inputs:
    """One split as the trainee sees it: labels, and a tensor a view, which is extracted once and kept in memory."""

    def __init__(self, classifier: Classifier, split: Split, seed: int, device: torch.device) -> None:
        self.classifier, self.split, self.seed, self.device = classifier, split, seed, device
        self.labels = torch.tensor(split.labels)  # (N,)
        self.views: dict[int, torch.Tensor] = {}

    def rows(self, view: int = 0) -> torch.Tensor:
        """Return a view's inputs (N, ...), in the order of the split's photos; extract them if need be."""
        if view not in self.views:
            self.views[view] = extract_features(self.classifier, self.split, view, self.seed, self.device)
        return self.views[view]


def extract_inputs(
    classifier: Classifier, splits: Splits, seed: int, device: torch.device
) -> tuple[Inputs, Inputs, Inputs | None]:
    """Run the frozen part of the classifier over all photos: once each, view 0.

    Returns the inputs of train, valid and (where there is one) test. Raises UnusablePhotosError, naming those of all
    splits, so that nobody has to start a run three times to learn of three bad photos.
    """
    found = [Inputs(classifier, split, seed, device) for split in (splits.train, splits.valid, splits.test) if split]
    errors: list[ImageError] = []
    for inputs in found:
        try:
            inputs.rows(view=0)
        except UnusablePhotosError as unusable:
            errors += unusable.errors
    if errors:
        raise UnusablePhotosError(errors)
    train, valid, *test = found
    return train, valid, test[0] if test else None


def epoch_batches(
    rows: torch.Tensor, labels: torch.Tensor, batch_size: int, device: torch.device, order_seed: int | None = None
) -> Iterator[Batch]:
    """Yield batches of rows (N, ...) and labels (N,) on a device, in an order drawn from `order_seed`, else as is."""
    order = torch.arange(len(labels))
    if order_seed is not None:
        order = torch.from_numpy(generator(order_seed).permutation(len(labels)))
    for chosen in order.split(batch_size):
        yield rows[chosen].to(device), labels[chosen].to(device)


def extract_features(classifier: Classifier, split: Split, view: int, seed: int, device: torch.device) -> torch.Tensor:
    """Run the frozen part of the classifier over one view of every photo of a split.

    Returns (N, D) float32 features, or for a model trained whole the (N, 3, S, S) uint8 pixels. One thread a core
    takes a micro-batch from its files to its features. Micro-batches are the same whatever the number of threads,
    and so are the results, bit for bit. Raises UnusablePhotosError.
    """
    rows = torch.empty(len(split), *classifier.trainee_input_shape, dtype=classifier.trainee_input_dtype)
    turn = contextlib.nullcontext() if device.type == "cpu" else threading.Lock()  # one forward at a time on a GPU
    bad: list[tuple[int, ImageError]] = []

    def extract(chosen: range) -> int:
        """Fill the rows of one micro-batch."""
        pixels = []
        for index in chosen:
            try:
                pixels.append(view_of_photo(classifier, split, index, view, seed))
            except ImageError as error:
                bad.append((index, error))
        if not bad:  # from the first bad photo on, all that is left to do is to find the others
            with turn, torch.inference_mode():
                batch = torch.stack(pixels).to(device)  # (B, 3, S, S) uint8
                rows[chosen.start : chosen.stop] = classifier.frozen_part(batch).cpu()
        return len(chosen)

    size = MICRO_BATCH[device.type]
    micro_batches = [range(i, min(i + size, len(split))) for i in range(0, len(split), size)]
    what = f"{split.name} photos, view {view}"
    if not sys.stderr.isatty():  # where no bar will say it
        note(f"reading {len(split):,} {what}")
    with single_threaded_torch(), worker_threads() as pool, progress(len(split), what, "photo") as bar:
        for done in as_completed([pool.submit(extract, chosen) for chosen in micro_batches]):
            bar.update(done.result())
    if bad:
        raise UnusablePhotosError([error for _, error in sorted(bad, key=lambda pair: pair[0])])
    return rows


def view_of_photo(classifier: Classifier, split: Split, index: int, view: int, seed: int) -> torch.Tensor:
    """Open a photo and cut the view of it: a function of seed, view and the photo's name. uint8 (3, S, S)."""
    photo = split.photos[index]
    image = load_image(split.root / photo)
    if view == 0:
        return preset_view(image, classifier.preprocessing)
    return random_view(image, classifier.preprocessing, generator(seed, "view", view, photo))


@contextlib.contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Give one thread a core; on an error or an interrupt, drop the work that has not begun."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(cores, MOST_THREADS))
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
