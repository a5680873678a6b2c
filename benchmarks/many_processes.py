"""Extraction in one process and in torchrun's, and what a job costs besides, for docs/scale.md. Run by hand.

    python benchmarks/many_processes.py rates FOLDER     photos a second: one process, torchrun with 1 and with 2
    python benchmarks/many_processes.py heads            a step of a head: in one process, and in two together
    python benchmarks/many_processes.py rows             rows a second that rank 0 takes from another and keeps
    python benchmarks/many_processes.py lists [N]        what N photos cost before the first is opened: seconds, bytes

A table's rows ran in turn, in one call of this script. `rates` shows the median of five rounds, `heads` that of thirty
steps. `step` and `send` are what torchrun starts for `heads` and `rows`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.job_extraction import received
from flower_classifier.networks import job as jobs
from flower_classifier.networks.frozen_backbone import RowForm
from flower_classifier.networks.job import Job
from flower_classifier.photos.splits import load_splits

PROJECT = Path(__file__).resolve().parent.parent
ROUNDS = 5
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
HEADS = {
    "squeezenet1_1, 512 units": (512, 512),
    "resnet50, 512 units": (2048, 512),
    "vgg16, 4,096 units": (25088, 4096),
}
BATCH = 64
MICRO_BATCH = 8


def rates(folder: str) -> None:
    """Print photos a second of whole extractions, without start and epochs, and what they are of one process's."""
    ways = {"one process": [sys.executable]} | {f"torchrun, {n}": [*TORCHRUN, str(n)] for n in (1, 2)}
    found = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, words in ways.items():
            found[name].append(extraction_rate(words, folder))
    first = statistics.median(found["one process"])
    for name, rounds in found.items():
        print(f"{name:14} {statistics.median(rounds):7.1f} photos/s {statistics.median(rounds) / first:6.2f}  {rounds}")


def extraction_rate(words: list[str], folder: str) -> float:
    """Train for one epoch; return the photos a second of what was spent on reading and computing."""
    with tempfile.TemporaryDirectory() as save_dir:
        asked = [folder, "--arch", "squeezenet1_1", "--epochs", "1", "--views", "1", "--no_cache", "--no_report"]
        command = [*words, str(PROJECT / "train.py"), *asked, "--save_dir", save_dir]
        subprocess.run(command, check=True, capture_output=True)
        seconds = json.loads((Path(save_dir) / "run" / "summary.json").read_text())["seconds"]
        photos = sum(1 for path in Path(folder).rglob("*.jpg"))
        return photos / (seconds["reading"] + seconds["computing"])


def heads() -> None:
    """Print the milliseconds of a head's step on a batch: one process alone, two with half of it and their gradients'
    mean."""
    subprocess.run([*TORCHRUN, "2", __file__, "step"], check=True)


def step() -> None:
    """Measure, in one of two processes."""
    dist.init_process_group("gloo")
    is_first, threads = dist.get_rank() == 0, torch.get_num_threads()
    for name, (width, units) in HEADS.items():
        head = torch.nn.Sequential(torch.nn.Linear(width, units), torch.nn.ReLU(), torch.nn.Linear(units, 102))
        optimizer = torch.optim.AdamW(head.parameters(), fused=True)
        shared = torch.nn.parallel.DistributedDataParallel(head)
        together = milliseconds(learning(shared, optimizer, width, BATCH // 2))
        dist.barrier()
        if is_first:
            torch.set_num_threads(os.cpu_count() or 1)
            alone = milliseconds(learning(head, optimizer, width, BATCH))
            torch.set_num_threads(threads)
            numbers = sum(parameter.numel() for parameter in head.parameters())
            print(
                f"{name:26} {numbers / 1e6:6.1f} M numbers   alone {alone:7.2f} ms   two processes {together:7.2f} ms"
            )
        dist.barrier()


def learning(model: torch.nn.Module, optimizer: torch.optim.Optimizer, width: int, photos: int) -> Callable[[], None]:
    """Return what takes a step of a head."""
    inputs, labels = torch.randn(photos, width), torch.randint(102, (photos,))

    def learn() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return learn


def milliseconds(run: Callable[[], None], number: int = 30) -> float:
    """Return the median of some runs: as many in every process."""
    run()
    found = []
    for _ in range(number):
        started = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - started))
    return statistics.median(found)


def rows() -> None:
    """Print the rows a second that rank 0 takes from one other process, and keeps in a table."""
    subprocess.run([*TORCHRUN, "2", __file__, "send"], check=True)


def send() -> None:
    """Send micro-batches, or take and keep them."""
    for width, number in ((1000, 4000), (25088, 400)):
        form = RowForm((width,), torch.float32)
        batch = torch.randn(MICRO_BATCH, width)
        jobs.job = jobs.job or Job()
        job = jobs.job
        if job.rank:
            for start in range(0, number * MICRO_BATCH, MICRO_BATCH):
                indices = list(range(start, start + MICRO_BATCH))
                job.send({"indices": indices, "views": [0], "errors": [], "seconds": [0.0, 0.0]}, [batch])
            continue
        keys = [(f"train/{index:09d}.jpg", 1, 1, 1) for index in range(number * MICRO_BATCH)]
        with (
            tempfile.TemporaryDirectory() as folder,
            FeatureCache(Path(folder), 1e12).table({}, form, keys) as table,
        ):
            receiving = keeping = 0.0
            for _ in range(number):
                started = time.perf_counter()
                done = received(*job.receive(1), form)
                between = time.perf_counter()
                table.keep(done.indices, done.rows[0])
                receiving, keeping = receiving + between - started, keeping + time.perf_counter() - between
            photos = number * MICRO_BATCH
            megabytes = photos * width * 4 / 1e6
            both = receiving + keeping
            print(
                f"rows of {width:6,} numbers: {photos / both:9,.0f} rows/s, {megabytes / both:6,.0f} MB/s "
                f"({receiving / both:.0%} receiving, {keeping / both:.0%} keeping)"
            )


def lists(number: str = "100000") -> None:
    """Print what photos cost that nobody opens: in seconds for a million, and in bytes of memory for each."""
    count, per_class = int(number), 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(count):
            split = "valid" if index % 100 == 99 else "train"
            path = folder / split / f"class{index // per_class:05d}" / f"photo_{index:09d}.jpg"
            if index % per_class < 100:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{index:0{20 + index % 50}d}".encode())
        splits = told("listing", lambda: load_splits(folder), count)
        keys = told("asking what the files are", splits.train.keys, len(splits.train))
        told("fingerprint", splits.train.fingerprint, len(keys))
        form = RowForm((8,), torch.float32)
        with FeatureCache(folder / "cache", 1e12).table({}, form, keys) as table:
            table.keep(range(len(keys)), torch.zeros(len(keys), *form.shape))
        with FeatureCache(folder / "cache", 1e12).table({}, form, keys) as table:
            told("reading the cache's index", lambda: table.entries.clear() or table.read_index(), len(keys))
            told("checking its rows", table.missing, len(keys))


def told(what: str, run: Callable[[], object], count: int) -> object:
    """Do something twice, for its time and for its memory; print these by photo, and return what comes of it."""
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    tracemalloc.start()  # which takes time of its own
    outcome = run()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"{what:28} {1e6 * seconds / count:8.1f} s for a million photos {size / count:8.0f} bytes for each")
    return outcome


if __name__ == "__main__":
    sections = {"rates": rates, "heads": heads, "step": step, "rows": rows, "send": send, "lists": lists}
    if sys.argv[1:2] and sys.argv[1] in sections:
        sections[sys.argv[1]](*sys.argv[2:])
    else:
        print(__doc__)
