"""Extraction by all processes of a job: each takes the next micro-batch that nobody has, and rank 0 gets all rows.

A micro-batch is the same whoever computes it, so neither the number of processes nor their speed changes a digit. Rows
go to rank 0 as they come, which keeps them as a single process would: nobody ever has all of them.
"""

import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TypedDict

import numpy as np
import PIL
import torch

from flower_classifier.base.console import Bar, progress
from flower_classifier.base.messages import RunError
from flower_classifier.features.extraction import Extracted, Work, extract, opener, threads_per_worker
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import ModelConfig
from flower_classifier.networks.frozen_backbone import FrozenBackbone, RowForm, versions_of
from flower_classifier.networks.job import EXTRACT, Job, LostError, Message, current_job
from flower_classifier.networks.layers import Layer
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.mending import damages
from flower_classifier.photos.splits import Split
from flower_classifier.photos.views import Augmentation, Preprocessing

WAITING = 64  # micro-batches by each helper that may wait for rank 0 to keep them
NOTHING_MORE = None  # what a helper sends after its last micro-batch
FOUND_ELSEWHERE = ImageError("another process could not open it")  # of which only the photo's index was sent


# --------------------------------------------------------------------------------------------------------------- rank 0


def extract_by_all(
    frozen: FrozenBackbone, split: Split, augmentation: Augmentation, work: Sequence[Work], bar: Bar
) -> Iterator[Extracted]:
    """Run the frozen part over micro-batches of a split's photos; yield what comes of each, in no order.

    In a job all processes share the work. Whether a photo can be opened is for rank 0 to say: where a helper cannot,
    rank 0 does the micro-batch again. Raises LostError where a helper has ended.
    """
    job, open_photo = current_job(), opener(split, frozen.preprocessing, augmentation)
    if job is None or not work:
        yield from extract(frozen, open_photo, work, bar)
        return
    name = job.new_list()
    task = {"do": EXTRACT, "list": name, "work": list(work), "augmentation": asdict(augmentation)}
    way = {"preprocessing": frozen.preprocessing.to_plain(), "way": numerics_key(frozen)}
    job.order({**task, **way, **new_model_or_split(frozen, split)})
    helpers = Helpers(job, frozen.rows)
    try:
        for done in extract(frozen, open_photo, helpers.with_redone(job.shares(name, work)), bar):
            yield done
            yield from helpers.readable(helpers.arrived(), bar)
        yield from helpers.readable(helpers.rest(), bar)
    except (GeneratorExit, OSError):  # nobody wants the rows any more: a disk is full, say
        job.drop(name, work)
        helpers.finish()
        raise
    yield from extract(frozen, open_photo, helpers.to_redo, bar)


class Helpers:
    """What the helpers send to rank 0, where one thread listens to each of them."""

    def __init__(self, job: Job, form: RowForm) -> None:
        self.job, self.form, self.at_work = job, form, len(job.helpers)
        self.came: Queue[Extracted | Exception | None] = Queue(WAITING * self.at_work)
        self.to_redo: list[Work] = []  # micro-batches with a photo that a helper could not open
        for helper in job.helpers:
            Thread(target=self.listen, args=(helper,), daemon=True).start()

    def listen(self, helper: int) -> None:
        """Put what a helper sends into the queue, until it has nothing more."""
        done: Extracted | Exception | None
        while True:
            try:
                head, body = self.job.receive(helper)
                done = received(head, body, self.form) if head else NOTHING_MORE
            except Exception as error:  # of any kind: the main thread waits for what comes
                done = error
            self.came.put(done)
            if not isinstance(done, Extracted):
                return

    def with_redone(self, work: Iterable[Work]) -> Iterator[Work]:
        """Yield the work, each micro-batch after those that have to be redone by now: so bad photos are known early."""
        for micro_batch in work:
            while self.to_redo:
                yield self.to_redo.pop()
            yield micro_batch

    def readable(self, came: Iterator[Extracted], bar: Bar) -> Iterator[Extracted]:
        """Yield the micro-batches of which a helper could open each photo; the rest has to be redone."""
        for done in came:
            if done.errors:
                self.to_redo.append((sorted([*done.indices, *done.errors]), list(done.rows)))
            else:
                bar.update(len(done.indices))
                yield done

    def arrived(self) -> Iterator[Extracted]:
        """Yield what has come, without waiting."""
        while self.at_work:
            try:
                yield from self.taken(self.came.get_nowait())
            except Empty:
                return

    def rest(self) -> Iterator[Extracted]:
        """Yield what still comes, until no helper has anything more."""
        while self.at_work:
            yield from self.taken(self.came.get())

    def taken(self, done: Extracted | Exception | None) -> Iterator[Extracted]:
        """Yield what has come if it is a micro-batch; raise it if it is an error."""
        if isinstance(done, LostError):
            raise LostError(str(done))  # anew, in this thread
        if isinstance(done, Exception):
            raise done
        if done is NOTHING_MORE:
            self.at_work -= 1
        else:
            yield done

    def finish(self) -> None:
        """Wait until the helpers have nothing more, and drop what comes."""
        try:
            for _ in self.rest():
                pass
        except LostError:  # they have ended, as this process is about to
            self.at_work = 0


class Head(TypedDict):
    """What a helper sends before the rows of a micro-batch."""

    indices: list[int]  # of the photos that could be opened
    views: list[int]
    errors: list[int]  # indices of the photos that could not
    damages: dict[str, str]  # damaged photos that were opened all the same, which rank 0 counts -> what is wrong
    seconds: list[float]  # of reading, of computing


def received(head: Head, body: torch.Tensor, form: RowForm) -> Extracted:
    """Return a micro-batch from what a process has sent of it."""
    indices, views = head["indices"], head["views"]
    damages.update(head["damages"])
    rows = body.view(form.dtype).view(len(views), len(indices), *form.shape)
    errors = dict.fromkeys(head["errors"], FOUND_ELSEWHERE)
    return Extracted(indices, dict(zip(views, rows, strict=True)), errors, *head["seconds"])


sent: dict[str, weakref.ref[object]] = {}  # the network and the photos that the helpers have from an earlier order


def new_model_or_split(frozen: FrozenBackbone, split: Split) -> Message:
    """Return the network and the photos that an order has to bring: those that the helpers lack. They never change."""
    news: Message = {}
    classifier = frozen.classifier
    # A search changes the head, and what it sees, of the same network: then the configuration is another object
    has_frozen, has_config = is_sent("frozen", frozen), is_sent("config", classifier.config)
    if not (has_frozen and has_config):
        means = [layer.to_plain() for layer in classifier.config.means]
        model = {
            "model": {**asdict(classifier.config), "means": means},
            "preprocessing": classifier.preprocessing.to_plain(),
        }
        news["frozen"] = {**model, "tensors": classifier.state_dict()}
    if not is_sent("split", split):
        news["split"] = {**asdict(split), "root": str(split.root)}
    return news


def numerics_key(frozen: FrozenBackbone) -> dict[str, object]:
    """Return what must be the same in all processes, for the same digits: machines, libraries, threads."""
    return {**frozen.way(threads_per_worker()), "libraries of pixels": versions_of(PIL, np)}


def is_sent(kind: str, thing: object) -> bool:
    """Say whether the helpers have this very object of its kind; the order that is being made will bring it."""
    before = sent.get(kind)
    sent[kind] = weakref.ref(thing)
    return before is not None and before() is thing


# ------------------------------------------------------------------------------------------------------------ a helper


class Helper:
    """What a helper has been told, and the device it works on."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self.job, self.device = job, device
        self.frozen: FrozenBackbone
        self.split: Split

    def hear(self, order: Message) -> None:
        """Take in the network and the photos that an order is about. Raises RunError where the photos are not here."""
        if frozen := order.get("frozen"):
            means = tuple(Layer.from_plain(layer) for layer in frozen["model"]["means"])
            config = ModelConfig(**{**frozen["model"], "means": means})
            preprocessing = Preprocessing.from_plain(frozen["preprocessing"])
            self.frozen = FrozenBackbone(
                Checkpoint(config, preprocessing, (), frozen["tensors"]).classifier, self.device
            )
        if split := order.get("split"):
            self.split = Split(**{**split, "root": Path(split["root"])})
            if not self.split.root.is_dir():
                raise RunError(f"{self.split.root} is not there: each machine needs the photos, under the same path")

    def extract(self, order: Message) -> None:
        """Do a share of the work that rank 0 has ordered, and send it what comes of it."""
        self.check_numerics(order["way"])
        preprocessing = Preprocessing.from_plain(order["preprocessing"])
        open_photo = opener(self.split, preprocessing, Augmentation(**order["augmentation"]))
        # Results come in the order of the work; where no photo opens, only the work knows the views
        work, same = itertools.tee(self.job.shares(order["list"], order["work"]))
        with progress(None, "", "photo", hidden=True) as bar:
            for done, (_, views) in zip(extract(self.frozen, open_photo, work, bar), same, strict=True):
                seconds = [done.reading, done.computing]
                paths = [str(self.split.path(index)) for index in done.indices]
                damaged = {path: damages.pop(path) for path in paths if path in damages}
                errors = list(done.errors)
                head = Head(indices=done.indices, views=list(views), errors=errors, damages=damaged, seconds=seconds)
                self.job.send(head, done.rows.values())
        self.job.send(NOTHING_MORE)

    def check_numerics(self, expected: Mapping[str, object]) -> None:
        """Raise RunError where this process would compute other digits of the same photos than rank 0."""
        actual = numerics_key(self.frozen)
        names = dict.fromkeys([*expected, *actual])  # either may have what the other lacks
        if differing := [name for name in names if actual.get(name) != expected.get(name)]:
            differences = "; ".join(f"{name}: {actual.get(name)}, not {expected.get(name)}" for name in differing)
            raise RunError(f"would compute other digits than process 0 ({differences}): take machines of one kind")
