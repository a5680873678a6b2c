"""What an architecture costs a photo on this machine, for docs/measurements.md. Run by hand.

    python benchmarks/architectures.py flowers/valid

Takes the photos below a folder (64 of them) through the extraction with random weights, all architectures in
turn in one process, three rounds; prints the median time as a multiple of squeezenet1_1's, as Markdown.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.process import keep_freed_memory
from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.devices import choose_device
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.folders import find_photos
from flower_classifier.photos.splits import Split

ARCHS = (
    "squeezenet1_1",
    "alexnet",
    "mobilenet_v3_large",
    "resnet18",
    "resnet50",
    "densenet121",
    "convnext_tiny",
    "vit_b_16",
    "densenet161",
    "vgg16",
)
PHOTOS, ROUNDS = 64, 3
CPU = choose_device(gpu=False)


def measure(frozen: FrozenBackbone, split: Split) -> float:
    """Return the seconds that one pass over the photos takes."""
    start = time.perf_counter()
    Inputs(frozen, split).rows()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    keep_freed_memory()  # as the commands do
    root = Path(sys.argv[1])
    photos = [path.relative_to(root).as_posix() for path in find_photos(root)][:PHOTOS]
    split = Split("some", root, tuple(photos), (0,) * len(photos))
    models = {arch: new_classifier(arch, 102, "none")[0] for arch in ARCHS}
    parts = {arch: FrozenBackbone(classifier, CPU) for arch, classifier in models.items()}
    for frozen in parts.values():
        measure(frozen, split)  # warm up
    times = {arch: [] for arch in ARCHS}
    for _ in range(ROUNDS):
        for arch, frozen in parts.items():
            times[arch].append(measure(frozen, split))
    medians = {arch: statistics.median(values) for arch, values in times.items()}
    print(
        "| architecture | features | time per photo, squeezenet1_1 = 1 | checkpoint, 102 classes |\n|---|---|---|---|"
    )
    for arch in sorted(ARCHS, key=medians.get):
        megabytes = sum(tensor.nbytes for tensor in models[arch].state_dict().values()) / 1e6
        ratio = medians[arch] / medians["squeezenet1_1"]
        print(f"| {arch} | {models[arch].feature_width:,} | {ratio:.1f} | {megabytes:.0f} MB |")


if __name__ == "__main__":
    main()
