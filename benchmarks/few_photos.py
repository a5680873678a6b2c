"""What a small data set needs: epochs, views, dropout; for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/few_photos.py flowers

In one process, by the package's own loop, on squeezenet1_1's features of a folder with train/ and valid/. Each data
set is drawn from both: 2, 10 or all classes, either any or such that look alike, with a few training photos each. Four
more photos a class choose the epoch, as in any run; the accuracy is that of the photos that are left. Means of five
seeds.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.seeding import generator
from flower_classifier.features.batches import whole
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import PLAIN_VIEW, Inputs, Schedule, Timings
from flower_classifier.judging.evaluation import evaluate
from flower_classifier.networks.checkpoint import Row
from flower_classifier.networks.classifier import Classifier, ModelConfig, new_classifier
from flower_classifier.networks.devices import choose_device, seed_torch
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.networks.source import Backbone
from flower_classifier.photos.splits import Split, load_splits
from flower_classifier.photos.views import USUAL
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState

SEEDS, BATCH_SIZE, RATE, HIDDEN_UNITS = range(5), 64, 0.001, (512,)
CHOOSING = 4  # photos a class that choose the epoch
SETTINGS = ((4, 0.2), (10, 0.2), (10, 0.5))  # views, dropout
EPOCHS, STEPS = (20, 60), (600,)  # run for so many epochs; or for so many steps, but 20 epochs at least
DEFAULT_EPOCHS = 20

InputsOf = Callable[[Split, Schedule], Inputs]


@dataclass(frozen=True)
class DataSet:
    """What is drawn: so many classes, alike or any, and so many training photos of each."""

    classes: int
    photos: int
    alike: bool = False

    def __str__(self) -> str:
        return f"{self.classes}{' alike' if self.alike else ''} x {self.photos}"


DATA_SETS = tuple(
    DataSet(classes, photos, alike)
    for classes in (2, 10, 102)
    for photos in (10, 16)
    for alike in ((True, False) if classes < 102 else (False,))
)


def draw(pool: Split, means: torch.Tensor, data_set: DataSet, seed: int) -> tuple[Split, Split, Split]:
    """Return the training photos, those that choose the epoch, and those that judge; `means` (C, D) of the classes."""
    rng = generator(seed, "data set", data_set.classes, data_set.photos, data_set.alike)
    if data_set.alike:
        first = int(rng.integers(len(means)))
        chosen = torch.cdist(means[first, None], means)[0].argsort()[: data_set.classes].tolist()
    else:
        chosen = rng.permutation(len(means))[: data_set.classes].tolist()
    parts: tuple[list, list, list] = ([], [], [])
    for label, old in enumerate(sorted(chosen)):
        photos = [photo for photo, its in zip(pool.photos, pool.labels, strict=True) if its == old]
        photos = [photos[place] for place in rng.permutation(len(photos))]
        ends = data_set.photos, data_set.photos + CHOOSING
        for part, some in zip(parts, (photos[: ends[0]], photos[ends[0] : ends[1]], photos[ends[1] :]), strict=True):
            part += [(photo, label) for photo in some]
    return tuple(
        replace(pool, name=name, photos=tuple(photo for photo, _ in part), labels=tuple(label for _, label in part))
        for name, part in zip(("train", "valid", "test"), parts, strict=True)
    )


def learn(parts: tuple[Split, Split, Split], inputs_of: InputsOf, recipe: Recipe, dropout: float) -> list[float]:
    """Train one head; return, for each epoch, the accuracy, in percent, of what a run that ended there would keep."""
    train, (valid, judged) = inputs_of(parts[0], recipe.schedule), (inputs_of(part, PLAIN_VIEW) for part in parts[1:])
    width = valid.rows()[torch.arange(1)].shape[1]
    model = ModelConfig("squeezenet1_1", HIDDEN_UNITS, dropout, max(parts[0].labels) + 1, "head")
    seed_torch(recipe.seed, "head")
    backbone = Backbone(nn.Identity(), width, train.frozen.preprocessing)
    state = TrainState(
        Classifier(model, backbone, model.build_head(width)),
        recipe,
        range(model.num_classes),
    )
    kept: list[float] = []

    def on_epoch(row: Row, _: Timings) -> None:
        is_best = state.best.row is row
        kept.append(100 * evaluate(state.average.module, whole(judged)).accuracy if is_best else kept[-1])

    fit(state, train, valid, on_epoch)
    return kept


def results(data_set: DataSet, pool: Split, means: torch.Tensor, inputs_of: InputsOf) -> dict[str, list[float]]:
    """Return the accuracies of a data set by what was set."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        parts = draw(pool, means, data_set, seed)
        steps = -(-len(parts[0]) // BATCH_SIZE)  # an epoch
        lengths = {f"{epochs} epochs": epochs for epochs in EPOCHS}
        lengths |= {f"{number} steps": max(DEFAULT_EPOCHS, -(-number // steps)) for number in STEPS}
        for views, dropout in SETTINGS:
            recipe = Recipe(max(lengths.values()), RATE, BATCH_SIZE, views, seed)
            kept = learn(parts, inputs_of, recipe, dropout)
            for name, epochs in lengths.items():
                found.setdefault(f"{views} views, dropout {dropout}, {name}", []).append(kept[epochs - 1])
    return found


def print_table(pool: Split, means: torch.Tensor, inputs_of: InputsOf) -> None:
    """Print the table: a row for each setting, a column for each data set."""
    columns = {}
    for data_set in DATA_SETS:
        columns[data_set] = results(data_set, pool, means, inputs_of)
        print(f"{data_set} measured", file=sys.stderr, flush=True)
    print(f"| classes x training photos of each | {' | '.join(map(str, columns))} |\n|---|{'---|' * len(columns)}")
    for name in next(iter(columns.values())):
        print(f"| {name} | {' | '.join(f'{statistics.mean(column[name]):.1f}' for column in columns.values())} |")


def main() -> None:
    """Read the photos once, then train on a few of them again and again."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    splits, cache = load_splits(Path(sys.argv[1]).resolve()), FeatureCache(None, 10e9)
    frozen = FrozenBackbone(new_classifier("squeezenet1_1", len(splits.classes))[0], choose_device(gpu=False))
    most = max(views for views, _ in SETTINGS)
    pool = replace(
        splits.train,
        photos=splits.train.photos + splits.valid.photos,
        labels=splits.train.labels + splits.valid.labels,
    )
    everything = Inputs(frozen, pool, USUAL, cache, Schedule(most, most))
    for view in range(most):
        everything.prepare(view)
    rows, labels = everything.rows()[torch.arange(len(pool))].float(), everything.labels
    means = torch.stack([rows[labels == label].mean(dim=0) for label in range(len(splits.classes))])
    print_table(pool, means, lambda split, schedule: Inputs(frozen, split, USUAL, cache, schedule))


if __name__ == "__main__":
    main()
