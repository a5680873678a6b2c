"""How much of what the machine can do the extraction takes; part of compare.py. Run by hand.

    python benchmarks/efficiency.py flowers

In one process, with random weights: decoding alone on all cores, the network alone at its best micro-batch on all
cores, and the extraction that does both; for vgg16 the network's rate beside that of a large bfloat16 matrix product.
The best of three rounds each, in turn.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.process import keep_freed_memory
from flower_classifier.features.extraction import shared_cores
from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.devices import choose_device
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.folders import find_photos
from flower_classifier.photos.splits import Split

PHOTOS = {"squeezenet1_1": 400, "densenet121": 200, "vgg16": 64}
ROUNDS, MICRO_BATCHES, MATRIX = 3, (4, 8, 16, 32), (1024, 2048)
VGG16_FLOP = 2 * 15.347e9  # per photo: its convolutions' multiplications and additions at 224 x 224


def best(*works: Callable[[], object]) -> list[float]:
    """Return the seconds that each takes: the least of some rounds in turn, after one to warm up."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [min(taken[1:]) for taken in times]


def on_all_cores(work: Callable[[object], object], items: list) -> list:
    """Work on the items, a thread a core."""
    with shared_cores(torch.device("cpu")) as workers, ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, items))


def some_photos(root: Path, number: int) -> Split:
    """Take photos from all over a folder."""
    found = [path.relative_to(root).as_posix() for path in find_photos(root)]
    photos = found[:: max(1, len(found) // number)][:number]
    return Split("some", root, tuple(photos), (0,) * len(photos))


def measure(root: Path, arch: str) -> tuple[float, float, float]:
    """Return ms per photo: decoding alone, the network alone, both as the extraction does them."""
    keep_freed_memory()  # as the commands do
    device = choose_device(gpu=False)
    frozen, split = FrozenBackbone(new_classifier(arch, 102, "none")[0], device), some_photos(root, PHOTOS[arch])
    inputs = Inputs(frozen, split)
    views = np.concatenate(on_all_cores(lambda index: inputs.open_photo(index, [0]), range(len(split))))  # (N, S, S, 3)
    pixels = torch.from_numpy(views).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def network(batch: torch.Tensor) -> torch.Tensor:
        return frozen(batch)

    decode, both, *forwards = best(
        lambda: on_all_cores(lambda index: inputs.open_photo(index, [0]), range(len(split))),
        lambda: Inputs(frozen, split).rows(),
        *(lambda size=size: on_all_cores(network, pixels.split(size)) for size in MICRO_BATCHES),
    )
    return tuple(1000 * seconds / len(split) for seconds in (decode, min(forwards), both))


def matrix_rate() -> float:
    """Return the operations per second of bfloat16 matrix products on all cores, at their best size."""
    rates = []
    for size in MATRIX:
        one, other = torch.randn(2, size, size).bfloat16()
        (seconds,) = best(lambda one=one, other=other: [one @ other for _ in range(10)])
        rates.append(10 * 2 * size**3 / seconds)
    return max(rates)


def rows(root: Path) -> list[tuple[str, str, str]]:
    """Return what was measured, the ratio, and the numbers behind it."""
    found = []
    for arch in PHOTOS:
        decode, network, both = measure(root, arch)
        details = f"{both:.2f} ms per photo / ({decode:.2f} decoding alone + {network:.2f} network alone)"
        found.append((f"extraction, {arch}", f"{both / (decode + network):.2f}", details))
        if arch == "vgg16":
            reached = VGG16_FLOP / network * 1000
    rate = matrix_rate()
    details = f"{reached / 1e9:.0f} / {rate / 1e9:.0f} billion operations per second"
    return [*found, ("vgg16's network / bfloat16 matrix product", f"{reached / rate:.2f}", details)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for row in rows(Path(sys.argv[1]).resolve()):
        print(f"| {' | '.join(row)} |", flush=True)
