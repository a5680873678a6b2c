"""What one range of grey for a data set is worth, for docs/measurements.md. Run by hand.

    python benchmarks/grey_range.py FOLDER ARCH [MOST [WEIGHTS]]

Makes grey copies of a folder of photos, MOST of a class and split (all without it), as cameras store them: in 8 bits;
12 bits in 16; a thermal camera's narrow band of 16 bits (2,800 to 3,300), once as it is and once with dead and hot
pixels. Trains on each with the defaults of train.py, with one range for all photos and without, and with other shares
of pixels left out of it. Prints validation accuracies in percent: the mean of three seeds, and the lowest and highest.
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train
from flower_classifier.base.seeding import generator
from flower_classifier.features import grey_range
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.images import load_image, photo_endings
from flower_classifier.training import steps

SEEDS, SIDE = range(3), 256  # pixels of a copy's shorter side, at least
BAND = (2800, 3300)
ODD = 1 / 5_000  # share of pixels that are dead, and as many that are hot
MEASURED = steps.find_grey_range


def eight(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return grey values (H, W) of uint8 as they are."""
    return grey


def twelve_in_16(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return them with four more bits, which are noise, in 16."""
    return grey.astype(np.uint16) * 16 + rng.integers(0, 16, grey.shape, dtype=np.uint16)


def thermal(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return them in a narrow band of 16 bits."""
    low, high = BAND
    return np.round(low + grey * ((high - low) / 255)).astype(np.uint16)


def worn(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return them in that band, from a camera of which some pixels always give 0 or 65,535."""
    values, draw = thermal(grey, rng), rng.random(grey.shape)
    return np.where(draw < ODD, 0, np.where(draw > 1 - ODD, 65_535, values)).astype(np.uint16)


STORED: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "8 bits": eight,
    "12 bits in 16": twelve_in_16,
    "thermal": thermal,
    "thermal, dead and hot pixels": worn,
}
# What is tried on each: shares of pixels left out at each end of the range, in percent; None: no range
LEFT_OUT = {eight: (None,), twelve_in_16: (None, 0.1), thermal: (None, 0.1), worn: (None, 0.0, 0.1, 2.0)}


def copy_as(stored: str, folder: Path, target: Path, most: int) -> None:
    """Write grey copies of the photos of each lowest folder, sorted by name."""
    counts: dict[Path, int] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in photo_endings()):
        counts[path.parent] = counts.get(path.parent, 0) + 1
        if counts[path.parent] <= most:
            copy = (target / path.relative_to(folder)).with_suffix(".png")
            copy.parent.mkdir(parents=True, exist_ok=True)
            grey = np.asarray(load_image(path, SIDE).convert("L"))
            Image.fromarray(STORED[stored](grey, generator(0, path.name))).save(copy, compress_level=1)


def accuracies(data: Path, options: list[str], cache: Path) -> list[float]:
    """Train with each seed; return the validation accuracies in percent."""
    percents = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as save_dir, contextlib.redirect_stdout(io.StringIO()):
            where = ["--save_dir", save_dir, "--cache_dir", str(cache), "--no_report", "--no_memory"]
            train.main([str(data), *options, *where, "--seed", str(seed)])
            row = max(Checkpoint.load(Path(save_dir, "checkpoint.pth")).history, key=lambda row: row["epoch"])
            percents.append(100 * row["valid_accuracy"])
    return percents


def main() -> None:
    """Print a line for each way to store photos and each range."""
    if len(sys.argv) not in (3, 4, 5):
        sys.exit(__doc__)
    folder, arch, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 10**9
    options = ["--arch", arch, *(["--weights", sys.argv[4]] if len(sys.argv) > 4 else [])]
    for stored in STORED:
        with tempfile.TemporaryDirectory() as made:
            data, cache = Path(made) / "photos", Path(made) / "cache"
            copy_as(stored, folder, data, most)
            for left_out in LEFT_OUT[STORED[stored]]:
                steps.find_grey_range = (lambda split: None) if left_out is None else MEASURED
                grey_range.LOW, grey_range.HIGH = left_out or 0.0, 100 - (left_out or 0.0)
                percents = accuracies(data, options, cache)
                name = "none" if left_out is None else f"{left_out:g} %"
                line = f"{np.mean(percents):5.1f} ({min(percents):.1f}-{max(percents):.1f})"
                print(f"{stored:30} {name:6} {line}", flush=True)


if __name__ == "__main__":
    main()
