"""Why epochs are nearly free: what the frozen backbone makes of a photo is computed once and kept.

A frozen backbone in eval mode gives the same answer every epoch. `extract_inputs` runs it over the photos, an
`Inputs` keeps what comes out, `epoch_batches` hands that out in an epoch's order. A model trained whole (`cnn`) has
no frozen part: its "features" are the photo's pixels, and everything else here is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy
import PIL
import torch
import torchvision

import backbones
import devices
import extraction
import images
import model_utils
import randomness
from data_utils import Split, Splits
from devices import device_name
from errors import InputError
from extraction import cores_a_worker, extract, micro_batches
from feature_cache import FeatureCache, MappedRows, photo_key
from images import FIRST_RANDOM_VIEW, ImageError, open_views
from messages import note, progress, warn
from model_utils import Classifier, plain
from randomness import generator
from words import counted, first_few, reason_of

EVALUATION_BATCH = 64  # always the same, for the same digits
FEW_BAD = 5  # how many unusable photos an error lists by name
VIEWS_A_DECODE = 2  # views 0 and 1, 2 and 3, ...: opening a photo costs about as much as a small network's forward

Rows = torch.Tensor | MappedRows  # (N, ...)
Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, ...), labels (B,)


def digest_of(module: ModuleType) -> str:
    """Return a digest of a module's source, on which the numbers depend too."""
    return hashlib.blake2b(Path(module.__file__).read_bytes(), digest_size=16).hexdigest()


# What features depend on too, as it is now: the files may be edited while the program runs.
CODE = [digest_of(module) for module in (images, randomness, backbones, model_utils, extraction, devices)]


class UnusablePhotosError(InputError):
    """Photos that cannot be opened: one error that lists the first few and counts the rest."""

    def __init__(self, errors: list[ImageError], advice: str = "repair or remove them") -> None:
        listed = "\n".join(f"  {error}" for error in errors[:FEW_BAD])
        rest = f"\n  and {len(errors) - FEW_BAD} more" if len(errors) > FEW_BAD else ""
        super().__init__(f"{counted(len(errors), 'photo')} cannot be used; {advice}:\n{listed}{rest}")


class Inputs:
    """One split as the trainee sees it: labels, and the rows of each view, which are extracted once and kept.

    They are kept on disk where there is a cache, for later runs too, else in memory. `views` says how many will be
    asked for: those that share a decode are extracted together. Photos that cannot be opened are left out, and named
    in `bad`.
    """

    def __init__(
        self,
        classifier: Classifier,
        split: Split,
        seed: int,
        device: torch.device,
        cache: FeatureCache | None = None,
        views: int = 1,
    ) -> None:
        self.classifier, self.split, self.seed, self.device, self.cache = classifier, split, seed, device, cache
        self.views = views
        self.bad: dict[int, ImageError] = {}  # index of a photo -> why it cannot be opened; known with the first rows
        self.extracted: dict[int, Rows] = {}  # by view

    @property
    def used(self) -> list[int]:
        """Indices of the photos that rows and labels stand for."""
        return [index for index in range(len(self.split)) if index not in self.bad]

    @property
    def paths(self) -> list[Path]:
        """Files of the photos that are used."""
        return [self.split.root / self.split.photos[index] for index in self.used]

    @property
    def labels(self) -> torch.Tensor:
        """Labels (N,) of the photos that are used."""
        return torch.tensor(self.split.labels)[self.used]

    def rows(self, view: int = 0) -> Rows:
        """Return a view's inputs (N, ...), in the order of the split's photos; extract what is not there yet."""
        if view not in self.extracted:
            first = view - view % VIEWS_A_DECODE
            together = [other for other in range(first, first + VIEWS_A_DECODE) if other == view or other < self.views]
            wanted = [other for other in together if other not in self.extracted]
            on_disk = self.cache is not None and self.cache.usable
            self.extracted |= self.rows_on_disk(wanted) if on_disk else self.rows_in_memory(wanted)
        return self.extracted[view]

    def rows_in_memory(self, views: list[int]) -> dict[int, Rows]:
        """Extract views of every photo into memory."""
        number, shape, dtype = len(self.split), self.classifier.trainee_input_shape, self.classifier.trainee_input_dtype
        kept = {view: torch.empty(number, *shape, dtype=dtype) for view in views}
        for view, chosen, rows in self.extract_missing({view: set(range(number)) for view in views}):
            kept[view][chosen] = rows
        return {view: rows[self.used] for view, rows in kept.items()} if self.bad else kept

    def rows_on_disk(self, views: list[int]) -> dict[int, Rows]:
        """Extract views of those photos whose rows are not in the cache; without a usable cache, of all."""
        split, shape, dtype = self.split, self.classifier.trainee_input_shape, self.classifier.trainee_input_dtype
        photos = [photo_key(split.root, photo) for photo in split.photos]
        try:
            with contextlib.ExitStack() as stack:
                tables = {view: stack.enter_context(self.cache.table(self.about(view), shape, dtype)) for view in views}
                missing = {}
                for view, table in tables.items():
                    missing[view] = {index for index, place in enumerate(table.find(photos)) if place < 0}
                    if found := len(photos) - len(missing[view]):
                        note(f"{split.name} photos, view {view}: {found:,} of {len(photos):,} taken from the cache")
                for view, chosen, rows in self.extract_missing(missing):
                    tables[view].append([photos[i] for i in chosen], rows)
                mapped = {view: table.mapped([photos[i] for i in self.used]) for view, table in tables.items()}
        except OSError as error:  # no space, no permission, a file system without locks
            warn(f"going on without the feature cache {self.cache.folder} ({reason_of(error)})")
            self.cache.usable = False
            return self.rows_in_memory(views)
        self.cache.evict()
        return mapped

    def extract_missing(self, missing: dict[int, set[int]]) -> Iterator[tuple[int, list[int], torch.Tensor]]:
        """Run the frozen part over the photos whose rows are `missing`, by view; yield view, indices and their rows.

        A photo is always computed in the same micro-batch, that of its place in the split, so that neither the number
        of workers nor what was there before changes a bit (rows that are kept while photos come and go may differ by
        rounding). Raises UnusablePhotosError for photos of which there is an earlier view already.
        """
        work = []
        for micro_batch in micro_batches(len(self.split), self.device):
            indices = [index for index in micro_batch if index not in self.bad]
            if wanted := [view for view in missing if not missing[view].isdisjoint(indices)]:
                work.append((indices, wanted))
        views = [str(view) for view in missing if missing[view]]
        what = f"{self.split.name} photos, view{'s' * (len(views) > 1)} {' and '.join(views)}"
        number = sum(len(indices) for indices, _ in work)
        if work and not sys.stderr.isatty():  # where no bar will say it
            note(f"reading {number:,} {what}")
        errors: dict[int, ImageError] = {}
        with progress(number, what, "photo") as bar:
            for done in extract(self.classifier, self.open_views, work, self.device, bar):
                errors |= done.errors
                for view, rows in done.rows.items():
                    places = [place for place, index in enumerate(done.indices) if index in missing[view]]
                    yield view, [done.indices[place] for place in places], rows[places]
        if errors and self.extracted:
            advice = "repair them, and resume"  # an earlier view was made of them: they have changed since
            raise UnusablePhotosError([errors[index] for index in sorted(errors)], advice)
        self.bad |= errors

    def open_views(self, index: int, views: Sequence[int]) -> torch.Tensor:
        """Open a photo and cut views of it: functions of seed, view and the photo's name. uint8 (V, 3, S, S)."""
        photo = self.split.photos[index]
        return open_views(self.split.root / photo, self.classifier.preprocessing, views, self.seed, photo)

    def about(self, view: int) -> dict[str, object]:
        """Return, in plain types, all that the rows of a view depend on beside the photo: code and machine included."""
        classifier = self.classifier
        network = {"arch": classifier.config.arch, "backbone": classifier.backbone_digest}
        precision = {"device": device_name(self.device), "bfloat16": classifier.bfloat16, "cores": cores_a_worker()}
        return {
            "data": str(self.split.root.absolute()),
            "view": view,
            "seed": self.seed if view >= FIRST_RANDOM_VIEW else None,
            "preprocessing": plain(classifier.preprocessing),
            "libraries": [library.__version__ for library in (torch, torchvision, PIL, numpy)],
            "code": CODE,
            **(network | precision if classifier.config.frozen else {}),
        }


def extract_inputs(
    classifier: Classifier,
    splits: Splits,
    seed: int,
    device: torch.device,
    cache: FeatureCache | None = None,
    views: int = 1,
) -> tuple[Inputs, Inputs, Inputs | None]:
    """Run the frozen part of the classifier over all photos: once each, view 0 (and what shares its decode).

    Returns the inputs of train (of which so many views will be asked for), valid and (where there is one) test, each
    with its bad photos known.
    """
    train = Inputs(classifier, splits.train, seed, device, cache, views)
    valid = Inputs(classifier, splits.valid, seed, device, cache)
    test = Inputs(classifier, splits.test, seed, device, cache) if splits.test else None
    for inputs in (train, valid, test):
        if inputs:
            inputs.rows(view=0)
    return train, valid, test


def check_photos_left(classes: Sequence[str], train: Inputs, *others: Inputs | None) -> None:
    """Raise InputError where a split, or a class of the training photos, has no photo that can be opened."""
    for inputs in (train, *others):
        if inputs and not inputs.used:
            raise InputError(f"none of the {inputs.split.name} photos can be opened: repair some")
    if lost := set(train.split.labels) - set(train.labels.tolist()):
        names = first_few([classes[label] for label in sorted(lost)])
        raise InputError(f"no training photo can be opened of {names}: repair some, or remove the class")


def epoch_batches(
    rows: Rows, labels: torch.Tensor, batch_size: int, device: torch.device, order_seed: int | None = None
) -> Iterator[Batch]:
    """Yield batches of rows (N, ...) and labels (N,) on a device, in an order drawn from `order_seed`, else as is."""
    order = torch.arange(len(labels))
    if order_seed is not None:
        order = torch.from_numpy(generator(order_seed).permutation(len(labels)))
    for chosen in order.split(batch_size):
        yield rows[chosen].to(device), labels[chosen].to(device)


def whole(inputs: Inputs) -> Iterator[Batch]:
    """Return batches of the plain photos of a split, in order: what is evaluated on."""
    return epoch_batches(inputs.rows(), inputs.labels, EVALUATION_BATCH, inputs.device)
