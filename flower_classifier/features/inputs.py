"""One split as the learner sees it: a row of each photo and view.

What the frozen backbone makes of a photo is the same in every epoch. So it is computed once and kept, and epochs are
nearly free. Where everything learns there is no frozen part: the rows are the photo's pixels, and all else is the same.

Epoch 1 uses view 0, epoch 2 view 1, and so on, over and over. A view is computed when the first epoch that uses it
begins, and with it the other view of its pair: opening a photo costs about as much as a small network's forward.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch

from flower_classifier.base.console import bars_are_shown, progress
from flower_classifier.base.messages import InputError, counted, first_few, note, photos_of, reason_of, warn
from flower_classifier.features.extraction import micro_batches, opener, threads_per_worker
from flower_classifier.features.feature_cache import FeatureCache, LearnerRows, MemoryTable, Rows, Table
from flower_classifier.features.job_extraction import extract_by_all
from flower_classifier.networks.frozen_backbone import FrozenBackbone, versions_of
from flower_classifier.networks.whitening import Whitening
from flower_classifier.photos import views as photo_views
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.mending import counting_damaged, damages
from flower_classifier.photos.splits import PhotoKey, Split, Splits
from flower_classifier.photos.views import USUAL, Augmentation

VIEWS_PER_DECODE = 2  # views 0 and 1, 2 and 3, ...


@dataclass(frozen=True)
class Schedule:
    """The views of a run's training photos."""

    views: int  # how many there are
    epochs: int  # how many epochs use them in turn

    def view_of(self, epoch: int) -> int:
        """Return the view that an epoch uses; epochs count from 1."""
        return (epoch - 1) % self.views

    @property
    def used(self) -> int:
        """How many different views the run uses: the first ones, in order."""
        return min(self.views, self.epochs)

    def together(self, view: int) -> list[int]:
        """Return the views that are computed when this one is needed."""
        first = view - view % VIEWS_PER_DECODE
        return [member for member in range(first, first + VIEWS_PER_DECODE) if member == view or member < self.used]

    @property
    def passes(self) -> list[list[int]]:
        """Views by the passes over the photos in which they are computed."""
        return [self.together(first) for first in range(0, self.used, VIEWS_PER_DECODE)]


PLAIN_VIEW = Schedule(views=1, epochs=1)  # of photos that are only looked at


Computed = tuple[int, list[int], torch.Tensor]  # a view, indices of photos, and their rows
NO_ERRORS: Mapping[int, ImageError] = {}
LISTED_BAD = 5  # how many unusable photos an error lists by name


class UnusablePhotosError(InputError):
    """Photos that cannot be opened: one error that lists the first few and counts the rest."""

    def __init__(self, errors: Sequence[ImageError], advice: str = "repair or remove them") -> None:
        listed = "\n".join(f"  {error}" for error in errors[:LISTED_BAD])
        rest = f"\n  and {len(errors) - LISTED_BAD} more" if len(errors) > LISTED_BAD else ""
        super().__init__(f"{counted(len(errors), 'photo')} cannot be used; {advice}:\n{listed}{rest}")


class Inputs:
    """A split's labels, and the rows of its views, each computed once and kept.

    Rows are kept on disk where there is a cache, else in memory. Photos that cannot be opened are left out.
    """

    def __init__(
        self,
        frozen: FrozenBackbone,
        split: Split,
        augmentation: Augmentation = USUAL,
        cache: FeatureCache | None = None,
        schedule: Schedule = PLAIN_VIEW,
        announced: bool = True,
        bad_limit: float = 1.0,
    ) -> None:
        self.frozen, self.split, self.cache = frozen, split, cache
        self.augmentation, self.schedule = augmentation, schedule
        self.open_photo = opener(split, frozen.preprocessing, augmentation)  # index, views -> uint8 (V, S, S, 3)
        self.bad_limit = bad_limit  # share of the photos that may be bad
        self.announced = announced  # whether it says what it reads, where no bar shows that
        self.bad: dict[int, ImageError] = {}  # index of a photo -> why it cannot be opened
        self.ready: dict[int, Rows] = {}  # by view: all that the frozen part gives
        self.feature_rows: dict[tuple[int, str, bool], LearnerRows] = {}  # by view, and by what the head sees
        self.whitening: Whitening | None = None  # of the rows that the learner takes
        self.whitened_rows: dict[int, LearnerRows] = {}  # by view
        self.timings: list[Timings] = []  # of the passes over the photos so far
        self.seen: list[PhotoKey] = []  # what the photos were when a view was last read

    @property
    def seconds(self) -> Timings:
        """Time spent on computing rows so far."""
        return sum(self.timings, Timings())

    @property
    def used(self) -> list[int]:
        """Indices of the photos that rows and labels stand for."""
        return [index for index in range(len(self.split)) if index not in self.bad]

    @property
    def left_out(self) -> list[str]:
        """Names of the photos that cannot be opened, in the split's order."""
        return [self.split.photos[index] for index in sorted(self.bad)]

    @property
    def errors(self) -> list[ImageError]:
        """What is wrong with the photos that cannot be opened, in the split's order."""
        return [self.bad[index] for index in sorted(self.bad)]

    @property
    def paths(self) -> list[Path]:
        """Files of the photos that are used."""
        return [self.split.path(index) for index in self.used]

    @property
    def labels(self) -> torch.Tensor:
        """Labels (N,) of the photos that are used."""
        return torch.tensor(self.split.labels)[self.used]

    def rows(self, view: int = 0) -> Rows:
        """Return a view's rows (N, ...) as the learner takes them, in the order of the split's photos."""
        rows = self.features(view)
        if self.whitening is None:
            return rows
        if view not in self.whitened_rows:
            self.whitened_rows[view] = LearnerRows(rows, self.whitening, self.schedule.views)
        return self.whitened_rows[view]

    def features(self, view: int = 0) -> Rows:
        """Return a view's features (N, D), or pixels (N, 3, S, S), in the order of the split's photos."""
        self.prepare(view)
        rows, classifier = self.ready[view], self.frozen.classifier
        is_whole = self.frozen.rows.shape == (classifier.feature_width,)
        if self.frozen.network is None or (is_whole and not classifier.config.square_roots):
            return rows
        key = view, classifier.config.layers, classifier.config.square_roots
        if key not in self.feature_rows:
            self.feature_rows[key] = LearnerRows(rows, classifier.features_of, self.schedule.views)
        return self.feature_rows[key]

    def find_whitening(
        self, shrinkage: float, indices: torch.Tensor | None = None, is_balanced: bool = False
    ) -> Whitening:
        """Return the whitening of the plain views' features; `indices`: of the photos it is found from, None: all."""
        features, labels = self.features(), self.labels
        indices = torch.arange(len(labels)) if indices is None else indices
        return Whitening.of(lambda block: features[indices[block]].float(), labels[indices], shrinkage, is_balanced)

    def whitened_by(self, whitening: Whitening | None) -> Inputs:
        """Return the same inputs, of which `rows` are whitened."""
        inputs = copy.copy(self)
        inputs.whitening, inputs.whitened_rows = whitening, {}
        return inputs

    def augmented_by(self, augmentation: Augmentation) -> Inputs:
        """Return the inputs of the same photos with other views; the plain one, which is the same, must be there."""
        inputs = copy.copy(self)
        inputs.augmentation = augmentation
        inputs.open_photo = opener(self.split, self.frozen.preprocessing, augmentation)
        inputs.ready, inputs.feature_rows, inputs.whitened_rows = {0: self.ready[0]}, {}, {}
        return inputs

    def prepare(self, view: int = 0) -> list[ImageError]:
        """Have the rows of a view ready; return what is wrong with the photos that turn out to be unusable.

        Raises UnusablePhotosError for photos that could be opened for an earlier view: they have changed since.
        """
        if view in self.ready:
            return []
        views = [member for member in self.schedule.together(view) if member not in self.ready]
        before = set(self.bad)
        self.check_unchanged()
        if self.cache is None or not self.cache.usable:
            self.ready |= self.complete({member: MemoryTable(len(self.split), self.frozen.rows) for member in views})
        else:
            try:
                with contextlib.ExitStack() as stack:
                    tables = {
                        member: stack.enter_context(self.cache.table(self.about(member), self.frozen.rows, self.seen))
                        for member in views
                    }
                    self.ready |= self.complete(tables)
                self.cache.evict()
            except OSError as error:
                warn(f"going on without the feature cache {self.cache.folder} ({reason_of(error)})")
                self.cache.usable = False
                self.prepare(view)
        return [self.bad[index] for index in sorted(self.bad) if index not in before]

    def complete(self, tables: Mapping[int, Table]) -> dict[int, Rows]:
        """Extract what the tables lack, keep it in them, and return the rows of each view."""
        for table in tables.values():
            self.set_aside(self.retry_bad([index for index in table.faults() if index not in self.bad]))
            damages.update({str(self.split.path(index)): damage for index, damage in table.damages().items()})
        before = set(self.bad)
        missing = {view: table.missing() - before for view, table in tables.items()}
        for view, lacking in missing.items():
            if cached := len(self.used) - len(lacking):
                note(f"{self.split.spoken} photos, view {view}: {cached:,} of {len(self.split):,} taken from the cache")
        with contextlib.closing(self.compute_missing(missing)) as computed:  # ends at once where rows cannot be kept
            for view, indices, rows in computed:
                tables[view].keep(indices, rows, self.damages_of(indices))
        if faults := {index: error.fault for index, error in self.bad.items() if index not in before and error.fault}:
            for table in tables.values():
                table.keep_faults(faults)
        return {view: table.rows(self.used) for view, table in tables.items()}

    def damages_of(self, indices: Sequence[int]) -> dict[int, str]:
        """Return, by index, what is wrong with those photos that were opened though damaged."""
        if not damages:  # nearly always
            return {}
        return {index: damages[path] for index in indices if (path := str(self.split.path(index))) in damages}

    def compute_missing(self, missing: dict[int, set[int]]) -> Generator[Computed, None, None]:
        """Run the frozen part over the photos whose rows are `missing`, by view; yield view, indices and their rows.

        A photo is always computed in the same micro-batch, that of its index in the split, so that neither the number
        of workers nor what was there before changes a bit (rows that are kept while photos come and go may differ by
        rounding).
        """
        work = []
        for micro_batch in micro_batches(len(self.split), self.frozen.device):
            indices = [index for index in micro_batch if index not in self.bad]
            if lacking := [view for view in missing if not missing[view].isdisjoint(indices)]:
                work.append((indices, lacking))
        views = [str(view) for view in missing if missing[view]]
        of_views = f"view{'s' * (len(views) > 1)} {' and '.join(views)}"
        count = sum(len(indices) for indices, _ in work)
        if work and self.announced and not bars_are_shown():
            note(f"reading {photos_of(self.split.name, count)}, {of_views}")
        errors: dict[int, ImageError] = {}
        started, reading, computing = time.perf_counter(), 0.0, 0.0
        with progress(count, f"{self.split.spoken} photos, {of_views}".strip(), "photo") as bar:
            for done in extract_by_all(self.frozen, self.split, self.augmentation, work, bar):
                if done.errors:
                    errors |= done.errors
                    self.check_limit(errors)
                reading, computing = reading + done.reading, computing + done.computing
                for view, rows in done.rows.items():
                    positions = [position for position, index in enumerate(done.indices) if index in missing[view]]
                    yield view, [done.indices[position] for position in positions], rows[positions]
        if work:  # workers do both at once; the time that has passed is shared out as theirs was
            passed = (time.perf_counter() - started) / (reading + computing)
            self.timings.append(Timings(reading * passed, computing * passed))
        self.set_aside(errors)

    def set_aside(self, errors: Mapping[int, ImageError]) -> None:
        """Leave photos out, by index. Raises UnusablePhotosError where an earlier view has them."""
        if errors and self.ready:
            raise UnusablePhotosError([errors[index] for index in sorted(errors)], "repair them, and resume")
        self.check_limit(errors)
        self.bad |= errors

    def check_limit(self, errors: Mapping[int, ImageError] = NO_ERRORS) -> None:
        """Raise InputError where too many photos are bad, further ones included; it names the newest of them."""
        count = len(self.bad) + len(errors)
        if not count or count / len(self.split) <= self.bad_limit:
            return
        newest = "\n".join(f"  {error}" for error in [*self.bad.values(), *errors.values()][-LISTED_BAD:])
        raise InputError(  # the message begins with the option's name
            f"of {self.bad_limit:g} is exceeded: {counted(count, f'{self.split.spoken} photo')} of "
            f"{len(self.split):,} cannot be opened. Is the disk at fault? The last of them:\n{newest}",
            "bad_limit",
        )

    def retry_bad(self, indices: Sequence[int]) -> dict[int, ImageError]:
        """Try photos again that an earlier run could not open, since it may have lacked memory; return what is wrong.

        A photo that is known to be bad does not make its whole micro-batch be computed again.
        """
        errors: dict[int, ImageError] = {}
        for index in indices:
            try:
                self.open_photo(index, [0])
            except ImageError as error:
                errors[index] = error.bare()
        return errors

    def check_unchanged(self) -> None:
        """Note the state of the photos' files before a view is read; warn of changes since an earlier view."""
        before, self.seen = self.seen, self.split.keys()
        pairs = zip(before, self.seen, strict=True) if self.ready else ()
        if changed := [now[0] for then, now in pairs if then[:3] != now[:3]]:  # name, size, mtime
            message = f"{counted(len(changed), 'photo')} changed during the run ({first_few(changed)})"
            warn(f"{message}: earlier views show what was there before")

    def through(self, frozen: FrozenBackbone, positions: Sequence[int] | None = None) -> Inputs:
        """Return the inputs of the same photos for another frozen part, to be judged and kept nowhere.

        `positions`: of the photos to take, among those that are used; None: all. Raises UnusablePhotosError for photos
        that could be opened before.
        """
        used = self.used if positions is None else [self.used[position] for position in positions]
        inputs = eval_inputs(frozen, self.split.take(used), announced=False)
        if errors := inputs.prepare():
            raise UnusablePhotosError(errors, "repair them, and resume")
        return inputs

    def about(self, view: int) -> dict[str, object]:
        """Return, in plain types, all that the rows of a view depend on beside the photo, and nothing else."""
        is_usual = view == 0 or self.augmentation.kind == USUAL.kind  # the plain view is the same in all kinds
        return {
            "data": str(self.split.root.absolute()),
            "view": view,
            **({} if is_usual else {"augmentation": self.augmentation.kind}),
            "seed": self.augmentation.seed if view >= self.augmentation.first_random else None,
            "preprocessing": self.frozen.preprocessing.to_plain(),
            "pixels": photo_views.VERSION,
            "libraries of pixels": versions_of(PIL, np),
            **self.frozen.about(threads_per_worker()),
        }


class AllInputs(NamedTuple):
    """The inputs of a run: of each split."""

    train: Inputs
    valid: Inputs
    test: Inputs | None

    @property
    def splits(self) -> list[Inputs]:
        """Those that there are."""
        return [inputs for inputs in self if inputs]

    @property
    def judged(self) -> Inputs:
        """Those that tell what a model is worth: the test photos, and without any the validation photos."""
        return self.test or self.valid

    def whitened_by(self, whitening: Whitening | None) -> AllInputs:
        """Return the same inputs, of which `rows` are whitened."""
        test = self.test and self.test.whitened_by(whitening)
        return AllInputs(self.train.whitened_by(whitening), self.valid.whitened_by(whitening), test)

    @property
    def left_out(self) -> list[str]:
        """The photos that cannot be opened."""
        return [photo for inputs in self.splits for photo in inputs.left_out]


def prepare_inputs(
    frozen: FrozenBackbone,
    splits: Splits,
    augmentation: Augmentation,
    cache: FeatureCache | None,
    schedule: Schedule,
    bad_limit: float = 1.0,
) -> AllInputs:
    """Compute view 0 of all photos, and the view that is computed with it; each photo is opened once.

    Returns the inputs of all splits, each with its bad photos known. Raises InputError as soon as more than a share
    `bad_limit` of a split's photos cannot be opened.
    """
    train = Inputs(frozen, splits.train, augmentation, cache, schedule, bad_limit=bad_limit)
    valid = eval_inputs(frozen, splits.valid, cache, bad_limit=bad_limit)
    test = eval_inputs(frozen, splits.test, cache, bad_limit=bad_limit) if splits.test else None
    inputs = AllInputs(train, valid, test)
    with counting_damaged():
        for split in inputs.splits:
            split.prepare()
    return inputs


def eval_inputs(
    frozen: FrozenBackbone,
    split: Split,
    cache: FeatureCache | None = None,
    announced: bool = True,
    bad_limit: float = 1.0,
) -> Inputs:
    """Return the inputs of a split that is judged, with the views of each photo that an answer is the mean of."""
    count = len(frozen.config.answer_views)
    return Inputs(frozen, split, cache=cache, schedule=Schedule(count, count), announced=announced, bad_limit=bad_limit)


def check_photos_left(classes: Sequence[str], train: Inputs, *held_out: Inputs | None) -> None:
    """Raise InputError where a split, or a class of the training photos, has no photo that can be opened."""
    for inputs in (train, *held_out):
        if inputs and not inputs.used:
            raise InputError(f"none of the {inputs.split.spoken} photos can be opened: repair some")
    if lost := set(train.split.labels) - set(train.labels.tolist()):
        names = first_few([classes[label] for label in sorted(lost)])
        raise InputError(f"no training photo can be opened of {names}: repair some, or remove the class")


# ----------------------------------------------------------------------------------------------------------------- time


@dataclass(frozen=True)
class Timings:
    """Seconds of wall-clock time, by what they were spent on."""

    reading: float = 0.0  # opening photos and cutting views out of them
    computing: float = 0.0  # running the frozen part of a network over them
    training: float = 0.0  # training the learner, and judging it on the validation photos

    def __add__(self, other: Timings) -> Timings:
        return Timings(self.reading + other.reading, self.computing + other.computing, self.training + other.training)

    def __sub__(self, other: Timings) -> Timings:
        return Timings(self.reading - other.reading, self.computing - other.computing, self.training - other.training)
