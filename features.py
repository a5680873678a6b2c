"""Why epochs are nearly free: what the frozen backbone makes of a photo is computed once and kept.

A frozen backbone in eval mode gives the same answer every epoch. `extract_inputs` runs it over the photos, an
`Inputs` keeps what comes out, `epoch_batches` hands that out in an epoch's order. A model trained whole (`cnn`) has
no frozen part: its "features" are the photo's pixels, and everything else here is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import PIL
import torch
import torchvision

import images
from data_utils import Split, Splits
from devices import MICRO_BATCH, device_name
from feature_cache import FeatureCache, MappedRows, photo_key
from images import ImageError, load_image, preset_view, random_view
from model_utils import Classifier, plain
from randomness import generator
from terminal import InputError, counted, note, progress, reason_of, warn

MOST_THREADS = 8  # each holds the activations of a micro-batch
FEW_BAD = 5  # how many unusable photos an error lists by name

Rows = torch.Tensor | MappedRows  # (N, ...)
Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, ...), labels (B,)


class UnusablePhotosError(InputError):
    """Photos that cannot be opened: one error that lists the first few and counts the rest."""

    def __init__(self, errors: list[ImageError]) -> None:
        self.errors = errors
        listed = "\n".join(f"  {error}" for error in errors[:FEW_BAD])
        rest = f"\n  and {len(errors) - FEW_BAD} more" if len(errors) > FEW_BAD else ""
        super().__init__(f"{counted(len(errors), 'photo')} cannot be used; repair or remove them:\n{listed}{rest}")


class Inputs:
    """One split as the trainee sees it: labels, and the rows of each view, which are extracted once and kept.

    They are kept on disk where there is a cache, for later runs too, else in memory.
    """

    def __init__(
        self, classifier: Classifier, split: Split, seed: int, device: torch.device, cache: FeatureCache | None = None
    ) -> None:
        self.classifier, self.split, self.seed, self.device, self.cache = classifier, split, seed, device, cache
        self.labels = torch.tensor(split.labels)  # (N,)
        self.views: dict[int, Rows] = {}

    def rows(self, view: int = 0) -> Rows:
        """Return a view's inputs (N, ...), in the order of the split's photos; extract what is not there yet."""
        if view not in self.views:
            self.views[view] = (
                self.rows_on_disk(view) if self.cache and self.cache.usable else self.rows_in_memory(view)
            )
        return self.views[view]

    def rows_in_memory(self, view: int) -> torch.Tensor:
        """Extract a view of every photo into memory."""
        shape, dtype = self.classifier.trainee_input_shape, self.classifier.trainee_input_dtype
        rows = torch.empty(len(self.split), *shape, dtype=dtype)
        extract_features(self, view, list(range(len(self.split))), rows.__setitem__)
        return rows

    def rows_on_disk(self, view: int) -> Rows:
        """Extract a view of those photos whose rows are not in the cache; without a usable cache, of all."""
        split, shape, dtype = self.split, self.classifier.trainee_input_shape, self.classifier.trainee_input_dtype
        photos = [photo_key(split.root, photo) for photo in split.photos]
        try:
            with self.cache.table(self.about(view), shape, dtype) as table:
                missing = [index for index, place in enumerate(table.find(photos)) if place < 0]
                if found := len(photos) - len(missing):
                    note(f"{split.name} photos, view {view}: {found:,} of {len(photos):,} taken from the cache")
                extract_features(
                    self, view, missing, lambda chosen, rows: table.append([photos[i] for i in chosen], rows)
                )
                mapped = table.mapped(photos)
        except OSError as error:  # no space, no permission, a file system without locks
            warn(f"going on without the feature cache {self.cache.folder} ({reason_of(error)})")
            self.cache.usable = False
            return self.rows_in_memory(view)
        self.cache.evict()
        return mapped

    def about(self, view: int) -> dict[str, object]:
        """Return, in plain types, all that the rows of a view depend on beside the photo: code and machine included."""
        classifier = self.classifier
        network = {"arch": classifier.config.arch, "backbone": classifier.backbone_digest}
        precision = {"device": device_name(self.device), "bfloat16": classifier.bfloat16}
        return {
            "data": str(self.split.root.absolute()),
            "view": view,
            "seed": self.seed if view else None,  # the plain view knows no chance
            "preprocessing": plain(classifier.preprocessing),
            "libraries": [torch.__version__, torchvision.__version__, PIL.__version__],
            "code": hashlib.blake2b(Path(images.__file__).read_bytes(), digest_size=16).hexdigest(),
            **(network | precision if classifier.config.frozen else {}),
        }


def extract_inputs(
    classifier: Classifier, splits: Splits, seed: int, device: torch.device, cache: FeatureCache | None = None
) -> tuple[Inputs, Inputs, Inputs | None]:
    """Run the frozen part of the classifier over all photos: once each, view 0.

    Returns the inputs of train, valid and (where there is one) test. Raises UnusablePhotosError, naming those of all
    splits, so that nobody has to start a run three times to learn of three bad photos.
    """
    found = [
        Inputs(classifier, split, seed, device, cache) for split in (splits.train, splits.valid, splits.test) if split
    ]
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
    rows: Rows, labels: torch.Tensor, batch_size: int, device: torch.device, order_seed: int | None = None
) -> Iterator[Batch]:
    """Yield batches of rows (N, ...) and labels (N,) on a device, in an order drawn from `order_seed`, else as is."""
    order = torch.arange(len(labels))
    if order_seed is not None:
        order = torch.from_numpy(generator(order_seed).permutation(len(labels)))
    for chosen in order.split(batch_size):
        yield rows[chosen].to(device), labels[chosen].to(device)


def extract_features(
    inputs: Inputs, view: int, missing: list[int], store: Callable[[list[int], torch.Tensor], None]
) -> None:
    """Run the frozen part of the classifier over one view of the `missing` photos of a split.

    `store` gets indices and their rows, (B, D) float32 features, or for a model trained whole (B, 3, S, S) uint8
    pixels. One thread a core takes a micro-batch from its files to its features. A photo is always computed in the
    same micro-batch, that of its place in the split, so that neither the number of threads nor what was there before
    changes a bit (rows that are kept while photos come and go may differ by rounding). Raises UnusablePhotosError.
    """
    classifier, split, device = inputs.classifier, inputs.split, inputs.device
    turn = contextlib.nullcontext() if device.type == "cpu" else threading.Lock()  # one forward at a time on a GPU
    wanted = set(missing)
    bad: list[tuple[int, ImageError]] = []

    def extract(micro_batch: range) -> int:
        """Store the missing rows of one micro-batch; return their number."""
        pixels = []
        for index in micro_batch:
            try:
                pixels.append(view_of_photo(classifier, split, index, view, inputs.seed))
            except ImageError as error:
                bad.append((index, error))
        chosen = [index for index in micro_batch if index in wanted]
        if not bad:  # from the first bad photo on, all that is left to do is to find the others
            with turn, torch.inference_mode():
                rows = classifier.frozen_part(torch.stack(pixels).to(device)).cpu()  # (B, ...)
            store(chosen, rows[[index - micro_batch.start for index in chosen]])
        return len(chosen)

    size = MICRO_BATCH[device.type]
    micro_batches = [range(i, min(i + size, len(split))) for i in range(0, len(split), size)]
    needed = [micro_batch for micro_batch in micro_batches if not wanted.isdisjoint(micro_batch)]
    what = f"{split.name} photos, view {view}"
    if needed and not sys.stderr.isatty():  # where no bar will say it
        note(f"reading {len(missing):,} {what}")
    with single_threaded_torch(), worker_threads() as pool, progress(len(missing), what, "photo") as bar:
        for done in as_completed([pool.submit(extract, micro_batch) for micro_batch in needed]):
            bar.update(done.result())
    if bad:
        raise UnusablePhotosError([error for _, error in sorted(bad, key=lambda pair: pair[0])])


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
