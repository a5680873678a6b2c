"""From photos' files to what the frozen part of a classifier makes of them, on every core.

Each thread takes a micro-batch all the way: it opens the photos, cuts the views out of them and runs the frozen
backbone. So on a CPU decoding and computing never wait for each other, and what is in a core's caches stays there.
Training keeps what comes out (inputs.py), predicting goes on to the head with it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from flower_classifier.networks.devices import MICRO_BATCH, can_start_threads, usable_cores
from flower_classifier.networks.frozen import FrozenPart
from flower_classifier.photos.images import ImageError

if TYPE_CHECKING:
    from tqdm import tqdm

MOST_WORKERS = 8  # threads; on a CPU each holds the activations of a micro-batch
AHEAD = 2  # micro-batches per worker that may wait for who takes the results

OpenPhoto = Callable[[int, Sequence[int]], np.ndarray]  # a photo's index, views -> uint8 (V, S, S, 3)
Result = TypeVar("Result")
Work = tuple[Sequence[int], Sequence[int]]  # one micro-batch: indices of photos, and the views to cut out of each


@dataclass(frozen=True)
class Extracted:
    """What came of one micro-batch."""

    indices: list[int]  # of the photos that could be opened
    rows: dict[int, torch.Tensor]  # view -> (B, ...): their features, or pixels where everything learns
    errors: dict[int, ImageError]  # index -> what is wrong with a photo that could not
    reading: float  # seconds spent on opening photos and cutting views
    computing: float  # seconds spent on the network, and on waiting for a GPU


def micro_batches(number: int, device: torch.device) -> list[range]:
    """Divide the indices of `number` photos into what one forward takes."""
    size = MICRO_BATCH[device.type]
    return [range(start, min(start + size, number)) for start in range(0, number, size)]


def extract(
    frozen: FrozenPart,
    open_photo: OpenPhoto,
    work: Sequence[Work],
    bar: tqdm,
    most_workers: int = MOST_WORKERS,
) -> Iterator[Extracted]:
    """Run the frozen part over micro-batches of photos; yield what comes of each, in order.

    Photos that cannot be opened come back as errors. The bar counts photos that are done with, and says what holds them
    up.
    """
    device = frozen.device
    turn = contextlib.nullcontext() if device.type == "cpu" else threading.Lock()  # one forward at a time on a GPU

    def run(indices: Sequence[int], views: Sequence[int]) -> Extracted:
        """Take one micro-batch from its files to its rows."""
        started = time.perf_counter()
        opened, errors = {}, {}
        for index in indices:
            try:
                opened[index] = open_photo(index, views)
            except ImageError as error:
                errors[index] = error.bare()
        read, rows = time.perf_counter(), {}
        if opened:
            pixels = to_pixels(list(opened.values()))  # (V, B, 3, S, S)
            if device.type == "cuda":
                pixels = pixels.pin_memory()  # from where the GPU fetches while the processor goes on
            with turn, torch.inference_mode():
                for view, batch in zip(views, pixels, strict=True):
                    rows[view] = frozen(batch.to(device, non_blocking=True)).cpu()  # (B, ...)
        return Extracted(list(opened), rows, errors, read - started, time.perf_counter() - read)

    reading = computing = 0.0
    for done in in_order(run, work, device, most_workers):
        yield done
        reading, computing = reading + done.reading, computing + done.computing
        bar.set_postfix_str("limited by computing" if computing > reading else "limited by reading", refresh=False)
        bar.update(len(done.indices) + len(done.errors))


def to_pixels(views: Sequence[np.ndarray]) -> torch.Tensor:
    """Make what a network takes, uint8 (V, B, 3, S, S), of the views of B photos, uint8 (V, S, S, 3) each."""
    return torch.from_numpy(np.stack(views, axis=1)).permute(0, 1, 4, 2, 3)


def in_order(
    run: Callable[..., Result], work: Iterable[tuple], device: torch.device, most_workers: int = MOST_WORKERS
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
    """Return how many of torch's threads an operation uses: one, unless there are more of them than workers."""
    return -(-torch.get_num_threads() // most_workers)  # the cores, or what OMP_NUM_THREADS allows


@contextlib.contextmanager
def shared_cores(device: torch.device, most_workers: int = MOST_WORKERS) -> Iterator[int]:
    """Divide torch's threads among workers: give their number, and let each operation use its worker's share.

    With a GPU the workers do little but open photos, for which every core is welcome.
    """
    threads, share = torch.get_num_threads(), threads_per_worker(most_workers)
    if share != threads:  # which is a setting of the whole process
        torch.set_num_threads(share)
    try:
        yield threads // share if device.type == "cpu" else max(threads, usable_cores())
    finally:
        if share != threads:
            torch.set_num_threads(threads)
