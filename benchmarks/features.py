"""Which features a head learns best from: layers, square roots and shrinkage, for docs/features.md. Run by hand.

    TORCH_HOME=... python benchmarks/features.py flowers --signs signs --lite0 tf_efficientnet_lite0.pth [--vgg16 FILE]

`flowers` holds train/ and valid/ with 102 classes, `signs` a folder for each of ten classes; TORCH_HOME holds
squeezenet1_1's weights, and the files those of timm's tf_efficientnet_lite0 and of torchvision's vgg16. Heads learn by
the defaults from draws of few or many photos, classes or both, and validation photos judge: of signs those that no draw
learns from. A cell is the accuracy in percent and the loss. The first column is what a run did before there were
several layers: the backbone's own output as it is. Features are computed once; the heads take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import Inputs
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import Split, load_splits
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState

VIEWS = 2  # the plain photo and its mirror image
# layers, whether square roots are taken, shrinkage (0: not whitened)
KINDS = (
    ("last", False, 0.0),
    ("last", True, 0.4),
    ("several", False, 0.0),
    ("several", False, 0.4),
    ("several", True, 0.1),
    ("several", True, 0.4),
    ("several", True, 0.8),
)


@dataclass(frozen=True)
class Draw:
    """Photos to learn from and to judge by, of some classes, numbered anew."""

    name: str
    train: Split
    valid: Split


def drawn(name: str, train: Split, valid: Split, classes: int, photos: int, seed: int) -> Draw:
    """Draw classes, and photos of each to learn from."""
    chosen = torch.Generator().manual_seed(seed)
    kept = torch.randperm(max(train.labels) + 1, generator=chosen)[:classes].tolist()
    splits = []
    for split, most in ((train, photos), (valid, len(valid))):
        by_class = [[i for i, label in enumerate(split.labels) if label == kind] for kind in kept]
        orders = [torch.randperm(len(members), generator=chosen)[:most].tolist() for members in by_class]
        indices = [sorted(members[i] for i in order) for members, order in zip(by_class, orders, strict=True)]
        numbers = tuple(number for number, members in enumerate(indices) for _ in members)
        taken = split.take([index for members in indices for index in members])
        splits.append(Split(taken.name, taken.root, taken.photos, numbers))
    return Draw(name, *splits)


def draws(flowers: Path, signs: Path) -> Iterator[Draw]:
    """Yield all draws, those of the same kind under the same name."""
    both = load_splits(flowers)
    for photos, times in ((20, 1), (10, 2), (5, 2)):
        for seed in range(times):
            yield drawn(f"102 flowers, {photos} photos each", both.train, both.valid, 102, photos, seed)
    for classes, times in ((10, 5), (2, 10)):
        for seed in range(times):
            yield drawn(f"{classes} flowers, 20 photos each", both.train, both.valid, classes, 20, seed)
    halves = load_splits(signs, valid_split=0.5)
    for classes, photos in ((10, 50), (10, 10), (10, 5), (2, 10), (2, 5)):
        for seed in range(1 if photos == 50 else 5):
            yield drawn(f"{classes} signs, {photos} photos each", halves.train, halves.valid, classes, photos, seed)


def judged(
    frozen: FrozenBackbone, draw: Draw, kind: tuple[str, bool, float], cache: FeatureCache
) -> tuple[float, float]:
    """Train a head by the defaults; return the accuracy and the loss of its average after the last epoch."""
    layers, square_roots, shrinkage = kind
    classifier = frozen.classifier
    classifier.config = replace(classifier.config, num_classes=max(draw.train.labels) + 1)
    classifier.look_at(layers, square_roots)
    classifier.renew_head((512,), TrainConfig.dropout, 0)
    train = Inputs(frozen, draw.train, cache=cache, schedule=recipe().schedule, announced=False)
    valid = Inputs(frozen, draw.valid, cache=cache, announced=False)
    whitening = train.find_whitening(shrinkage) if shrinkage else None
    state = TrainState(classifier, recipe())
    fit(state, train.whitened_by(whitening), valid.whitened_by(whitening))
    last = state.finished.history[-1]
    return 100 * last["valid_accuracy"], last["valid_loss"]


def recipe() -> Recipe:
    """Return the default recipe, with fewer views."""
    return Recipe(TrainConfig.epochs, TrainConfig.learning_rate, TrainConfig.batch_size, VIEWS, 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers", type=Path)
    parser.add_argument("--signs", type=Path, required=True)
    parser.add_argument("--lite0", type=Path, required=True)
    parser.add_argument("--vgg16", type=Path)
    options = parser.parse_args(arguments)
    backbones = {"squeezenet1_1": None, "timm/tf_efficientnet_lite0": str(options.lite0)}
    backbones |= {"vgg16": str(options.vgg16)} if options.vgg16 else {}
    for arch, weights in backbones.items():
        frozen = FrozenBackbone(new_classifier(arch, 2, weights)[0], torch.device("cpu"))
        heads = [
            f"{layers}{', roots' * square_roots}{f', {share:g}' * (share > 0)}" for layers, square_roots, share in KINDS
        ]
        print(f"\n| {arch} | " + " | ".join(heads) + " |\n|---" + "|---" * len(KINDS) + "|", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results: dict[str, list[list[tuple[float, float]]]] = {}
            for draw in draws(options.flowers, options.signs):
                cache = FeatureCache(Path(folder), limit=1e10)
                results.setdefault(draw.name, []).append([judged(frozen, draw, kind, cache) for kind in KINDS])
        for name, rows in results.items():
            cells = [
                f"{statistics.mean(a for a, _ in column):.1f}, {statistics.mean(b for _, b in column):.3f}"
                for column in zip(*rows, strict=True)
            ]
            print(f"| {name} ({len(rows)}) | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
