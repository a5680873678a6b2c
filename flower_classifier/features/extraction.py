"""From photos' files to what the frozen part of a classifier makes of them, on every core.

On a CPU each thread takes a micro-batch all the way: it opens the photos, cuts the views out of them and runs the
frozen backbone. So decoding and computing never wait for each other, and what is in a core's caches stays there. With a
GPU, threads open photos and one thread alone gives them to it.
Training keeps what comes out (inputs.py), predicting goes on to the head with it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from flower_classifier.base.console import Bar
from flower_classifier.base.torchrun import local_world_size, usable_cores
from flower_classifier.networks.devices import MICRO_BATCH, can_start_threads, torch_threads
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.splits import Split
from flower_classifier.photos.views import Augmentation, Preprocessing, open_views

MOST_WORKERS = 8  # threads; on a CPU each holds the activations of a micro-batch
MOST_OPENING = 32  # threads that open photos for a GPU: more only wait for the interpreter's lock
OPENED_AT_A_TIME = 8  # photos by one thread, where a GPU takes many more at a time
AHEAD = 2  # micro-batches per worker that may be begun before the first of their results is taken

OpenPhoto = Callable[[int, Sequence[int]], np.ndarray]  # a photo's index, views -> uint8 (V, S, S, 3)
Result = TypeVar("Result")
Work = tuple[Sequence[int], Sequence[int]]  # one micro-batch: indices of photos, and the views to cut out of each


@dataclass(frozen=True)
class Opened:
    """Photos read from their files, and the errors of those that could not be opened."""

    indices: list[int]  # of the photos that could be opened
    photos: list[np.ndarray]  # their views, uint8 (V, S, S, 3) each
    errors: dict[int, ImageError]  # index of a photo that could not be opened -> what is wrong with it
    seconds: float  # spent on opening them


@dataclass(frozen=True)
class Extracted:
    """What came of one micro-batch."""

    indices: list[int]  # of the photos that could be opened
    rows: dict[int, torch.Tensor]  # view -> (B, ...): their features, or pixels where everything learns
    errors: dict[int, ImageError]  # index of a photo that could not be opened -> what is wrong with it
    reading: float  # seconds spent on opening photos and cutting views
    computing: float  # seconds spent on the network, or on waiting for a GPU

    def fetched(self) -> Extracted:
        """Return the same with its rows on the CPU, once the GPU has them."""
        started = time.perf_counter()
        rows = {view: batch.cpu() for view, batch in self.rows.items()}
        return replace(self, rows=rows, computing=self.computing + time.perf_counter() - started)


def opener(split: Split, preprocessing: Preprocessing, augmentation: Augmentation) -> OpenPhoto:
    """Return a function that opens a split's photos and cuts views out of them."""

    def open_photo(index: int, views: Sequence[int]) -> np.ndarray:
        return open_views(split.path(index), preprocessing, views, augmentation, split.photos[index])

    return open_photo


def micro_batches(count: int, device: torch.device) -> list[range]:
    """Divide the indices of `count` photos into the batches of one forward each."""
    size = MICRO_BATCH[device.type]
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def extract(
    frozen: FrozenBackbone,
    open_photo: OpenPhoto,
    work: Iterable[Work],
    bar: Bar,
    most_workers: int = MOST_WORKERS,
) -> Iterator[Extracted]:
    """Run the frozen part over micro-batches of photos; yield what comes of each, in order.

    Photos that cannot be opened come back as errors. The bar counts photos that are done, and says what holds the rest
    up.
    """
    reading = computing = 0.0
    is_on_gpu = frozen.device.type != "cpu" and frozen.network is not None
    for done in (for_a_gpu if is_on_gpu else on_every_core)(frozen, open_photo, work, most_workers):
        yield done
        reading, computing = reading + done.reading, computing + done.computing
        bar.set_postfix_str("limited by computing" if computing > reading else "limited by reading", refresh=False)
        bar.update(len(done.indices) + len(done.errors))


def on_every_core(
    frozen: FrozenBackbone, open_photo: OpenPhoto, work: Iterable[Work], most_workers: int
) -> Iterator[Extracted]:
    """Yield what comes of each micro-batch: each worker takes one from its files to its rows."""

    @torch.inference_mode()
    def run(indices: Sequence[int], views: Sequence[int]) -> Extracted:
        opened = open_photos(open_photo, indices, views)
        started, rows = time.perf_counter(), {}
        if opened.photos:
            batches = zip(views, to_pixels(opened.photos), strict=True)  # (B, 3, S, S) each
            rows = {view: frozen(batch) for view, batch in batches}  # (B, ...) each
        return Extracted(opened.indices, rows, opened.errors, opened.seconds, time.perf_counter() - started)

    # A network that learns as a whole has no frozen part: its rows are pixels, and a GPU has nothing to do yet
    yield from ordered_parallel_map(run, work, frozen.device, most_workers)


def for_a_gpu(
    frozen: FrozenBackbone, open_photo: OpenPhoto, work: Iterable[Work], most_workers: int
) -> Iterator[Extracted]:
    """Yield what comes of each micro-batch: many threads open its photos, a few each; this thread has the GPU.

    Two threads on a GPU gain nothing, and may end the process on Apple's (pytorch#197805). While the GPU works on one
    micro-batch, this thread fetches the rows of the one before.
    """
    read = functools.partial(open_photos, open_photo)
    work, ahead = itertools.tee(work)
    chunks = ((chunk, views) for indices, views in ahead for chunk in chunks_to_open(indices))
    opened = ordered_parallel_map(read, chunks, frozen.device, most_workers)
    waiting: Extracted | None = None  # with its rows on the GPU
    for indices, views in work:
        opened_chunks = list(itertools.islice(opened, len(chunks_to_open(indices))))
        started = time.perf_counter()
        rows = begin_on_gpu(frozen, [photo for chunk in opened_chunks for photo in chunk.photos], views)
        if waiting:
            yield waiting.fetched()
        merged = [index for chunk in opened_chunks for index in chunk.indices]
        errors = {index: error for chunk in opened_chunks for index, error in chunk.errors.items()}
        # They were opened at the same time
        reading = sum(chunk.seconds for chunk in opened_chunks) / max(len(opened_chunks), 1)
        waiting = Extracted(merged, rows, errors, reading, time.perf_counter() - started)
    if waiting:
        yield waiting.fetched()


@torch.inference_mode()
def begin_on_gpu(frozen: FrozenBackbone, photos: Sequence[np.ndarray], views: Sequence[int]) -> dict[int, torch.Tensor]:
    """Let the GPU begin with the views of some photos, (V, S, S, 3) each; return the rows (B, ...) it will have."""
    if not photos:
        return {}
    pixels = to_pixels(photos)  # (V, B, 3, S, S)
    is_cuda = frozen.device.type == "cuda"
    if is_cuda:
        pixels = pixels.pin_memory()  # from where the GPU fetches while the processor goes on
    moved = pixels.to(frozen.device, non_blocking=is_cuda)  # MPS has no such order
    return {view: frozen.in_chunks(batch) for view, batch in zip(views, moved, strict=True)}


def chunks_to_open(indices: Sequence[int]) -> list[Sequence[int]]:
    """Divide a micro-batch into what one thread opens at a time: all threads work on the same micro-batch."""
    return [indices[start : start + OPENED_AT_A_TIME] for start in range(0, len(indices), OPENED_AT_A_TIME)]


def open_photos(open_photo: OpenPhoto, indices: Sequence[int], views: Sequence[int]) -> Opened:
    """Open photos and cut views out of them; those that cannot be opened come back as errors."""
    started, photos, errors = time.perf_counter(), {}, {}
    for index in indices:
        try:
            photos[index] = open_photo(index, views)
        except ImageError as error:
            errors[index] = error.bare()
    return Opened(list(photos), list(photos.values()), errors, time.perf_counter() - started)


def to_pixels(views: Sequence[np.ndarray]) -> torch.Tensor:
    """Make what a network takes, uint8 (V, B, 3, S, S), of the views of B photos, uint8 (V, S, S, 3) each."""
    return torch.from_numpy(np.stack(views, axis=1)).permute(0, 1, 4, 2, 3)


def ordered_parallel_map(
    run: Callable[..., Result],
    work: Iterable[tuple[object, ...]],
    device: torch.device,
    most_workers: int = MOST_WORKERS,
) -> Iterator[Result]:
    """Share `run`'s arguments in `work` among threads; yield the results in their order, few waiting at any time.

    On an error or an interrupt the work that has not begun is dropped. Where the system gives no threads, this one
    works.
    """
    if not can_start_threads():
        yield from itertools.starmap(run, work)
        return
    with shared_cores(device, most_workers) as workers, contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(workers)  # begins its threads with the number of torch's threads that is set now
        stack.callback(pool.shutdown, cancel_futures=True)
        running: deque[Future[Result]] = deque()
        for arguments in work:
            running.append(pool.submit(run, *arguments))
            if len(running) > AHEAD * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def threads_per_worker(most_workers: int = MOST_WORKERS) -> int:
    """Return how many of torch's threads an operation uses: one, or more when torch has more threads than workers."""
    return -(-torch.get_num_threads() // most_workers)  # the cores, or what OMP_NUM_THREADS allows


@contextlib.contextmanager
def shared_cores(device: torch.device, most_workers: int = MOST_WORKERS) -> Iterator[int]:
    """Divide torch's threads among workers: give their number, and let each operation use its worker's share.

    With a GPU the workers do little but open photos, for which every core is welcome. Each process of a job has
    a share of the workers, and an operation has the threads it has in a single process: so no digit depends on the
    number of processes.
    """
    threads, is_cpu = torch.get_num_threads(), device.type == "cpu"
    share = threads_per_worker(most_workers) if is_cpu else 1
    with torch_threads(share):
        most = threads // share if is_cpu else usable_cores()
        workers = max(most // local_world_size(), 1)
        yield workers if is_cpu else min(workers, MOST_OPENING)
