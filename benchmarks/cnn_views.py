"""What an epoch of the cnn shows of each photo, for docs/measurements.md. Run by hand.

    python benchmarks/cnn_views.py flowers [CLASSES]

Four views in turn, as `train.py` does; each photo another of the four in every epoch; or the plain photo, shifted and
mirrored anew in every epoch. All photos of a folder with train/ and valid/, or so many CLASSES of them, drawn by the
seed. Prints the validation accuracy after each epoch in percent, the mean of three seeds.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.seeding import fold_seed, generator
from flower_classifier.features.batches import Batch, batches, whole
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.evaluation import evaluate
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import Split, load_splits
from flower_classifier.training.ddp import Alone
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState

CPU, SEEDS, VIEWS, EPOCHS, RATE, BATCH_SIZE = torch.device("cpu"), range(3), 4, 20, 0.001, 64
WAYS = ("in turn", "mixed", "shifted")
SHIFT = 1 / 8  # of the side, the farthest


def of_classes(split: Split, chosen: list[int]) -> Split:
    """Return the photos of some classes."""
    kept = [place for place, label in enumerate(split.labels) if label in chosen]
    labels = tuple(chosen.index(split.labels[place]) for place in kept)
    return replace(split, photos=tuple(split.photos[place] for place in kept), labels=labels)


def rows_of(way: str, views: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """Return what an epoch shows of all photos, uint8 (N, 3, S, S), given their views (V, N, 3, S, S)."""
    number = views.shape[1]
    if way == "in turn":
        return views[(epoch - 1) % VIEWS]
    if way == "mixed":
        turn, place = divmod(epoch - 1, VIEWS)
        first = torch.from_numpy(generator(seed, "mix", turn).integers(0, VIEWS, number))
        return views[(first + place) % VIEWS, torch.arange(number)]
    return shifted(views[0], seed, epoch)


def shifted(pixels: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """Shift each photo (N, 3, S, S) by up to SHIFT, what lies beyond the edge reflected, and mirror one in two."""
    rng, (number, side) = generator(seed, "augment", epoch), (len(pixels), pixels.shape[-1])
    down, right = torch.from_numpy(rng.integers(-int(SHIFT * side), int(SHIFT * side) + 1, (2, number, 1)))
    mirrored, places = torch.from_numpy(rng.random((number, 1)) < 0.5), torch.arange(side)
    columns = torch.where(mirrored, places.flip(0), places)
    down, right = ((side - 1) - ((side - 1) - part.abs()).abs() for part in (places + down, columns + right))  # (N, S)
    photos, channels = torch.arange(number)[:, None, None, None], torch.arange(3)[:, None, None]
    return pixels[photos, channels, down[:, None, :, None], right[:, None, None, :]]


def learn(way: str, views: torch.Tensor, labels: torch.Tensor, held_out: list[Batch], seed: int) -> list[float]:
    """Train the cnn; return the validation accuracy after each epoch."""
    classifier, _ = new_classifier("cnn", int(labels.max()) + 1, seed=seed)
    state, accuracies = TrainState(classifier, Recipe(EPOCHS, RATE, BATCH_SIZE, VIEWS, seed)), []
    for epoch in range(1, EPOCHS + 1):
        rows = rows_of(way, views, seed, epoch)
        shuffled = batches(rows, labels, BATCH_SIZE, CPU, fold_seed(seed, "shuffle", epoch))
        train_one_epoch(Alone(state.learner), shuffled, state.optimizer, state.average, state.recipe)
        accuracies.append(100 * evaluate(state.average.module, held_out).accuracy)
    return accuracies


def main() -> None:
    """Print a line for each way."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    splits = load_splits(Path(sys.argv[1]).resolve())
    number = int(sys.argv[2]) if len(sys.argv) == 3 else len(splits.classes)
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for seed in SEEDS:
        chosen = sorted(generator(seed, "classes").choice(len(splits.classes), number, replace=False).tolist())
        frozen = FrozenBackbone(new_classifier("cnn", number)[0], CPU)
        train, valid = (Inputs(frozen, of_classes(split, chosen), seed) for split in (splits.train, splits.valid))
        views, held_out = torch.stack([train.rows(view) for view in range(VIEWS)]), list(whole(valid))
        for way in WAYS:
            found[way].append(learn(way, views, train.labels, held_out, seed))
    for way, seeds in found.items():
        print(f"{way:8}", *(f"{sum(epoch) / len(epoch):.1f}" for epoch in zip(*seeds, strict=True)), flush=True)


if __name__ == "__main__":
    main()
