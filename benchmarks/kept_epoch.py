"""Which of a run's epochs a checkpoint should hold: rules compared, for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/kept_epoch.py flowers --signs signs --lite0 tf_efficientnet_lite0.pth

`flowers` holds train/ and valid/ with 102 classes, `signs` a folder for each of ten classes; TORCH_HOME holds
squeezenet1_1's weights, and the file those of timm's tf_efficientnet_lite0. Heads learn by the defaults, five
times as long, with ten times the rate, and held back as --tune may choose.
Some of the validation photos choose an epoch and the temperature, as all of them do in a run; the others judge that. A
cell is the accuracy and the expected calibration error, both in percent, the loss, and the epoch: means over draws.
Features are computed once; the heads take ten minutes.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from features import Draw, drawn
from tuning import BACKBONES, parser_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.config.train_options import TrainConfig
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.calibration import best_temperature, calibrate
from flower_classifier.judging.evaluation import Evaluation, evaluate_on, loss_gap
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import load_splits
from flower_classifier.training.loop import fit
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import TrainState

VIEWS = 2  # the plain photo and its mirror image
KINDS = (("several", 0.4), ("last", 0.0))  # layers, shrinkage (0: not whitened)
# what differs from the defaults, and the dropout
RUNS: dict[str, tuple[dict[str, float], float]] = {
    "the defaults": ({}, 0.2),
    "100 epochs": ({"epochs": 100}, 0.2),
    "ten times the rate": ({"learning_rate": 0.01}, 0.2),
    "held back": ({"label_smoothing": 0.1, "weight_decay": 1.0}, 0.5),
}
DRAWS = 3
FEW, MANY = 50, 200  # photos that choose


def by_accuracy(epochs: Sequence[Evaluation]) -> int:
    """The highest accuracy, and of equal ones the lowest loss."""
    return max(range(len(epochs)), key=lambda index: (epochs[index].accuracy, -epochs[index].loss))


def by_loss(epochs: Sequence[Evaluation]) -> int:
    """The lowest loss."""
    return min(range(len(epochs)), key=lambda index: epochs[index].loss)


def last_within(epochs: Sequence[Evaluation], scaled: bool) -> int:
    """The last epoch whose loss is within a standard error of the lowest; `scaled`: at each one's best temperature."""
    epochs = [epoch.at(best_temperature(epoch)) for epoch in epochs] if scaled else epochs
    lowest = epochs[by_loss(epochs)].losses
    gaps = [loss_gap(epoch.losses, lowest) for epoch in epochs]
    return max(index for index, (gap, error) in enumerate(gaps) if gap <= error)


RULES: dict[str, Callable[[Sequence[Evaluation]], int]] = {
    "highest accuracy, then loss": by_accuracy,
    "lowest loss": by_loss,
    "last within a standard error of the lowest (kept with 50)": functools.partial(last_within, scaled=False),
    "the same, at its best temperature (kept with 200)": functools.partial(last_within, scaled=True),
    "last": lambda epochs: len(epochs) - 1,
}


def draws(flowers: Path, signs: Path) -> Iterator[tuple[Draw, int]]:
    """Yield draws of photos, each with its number."""
    both, halves = load_splits(flowers), load_splits(signs, valid_split=0.5)
    for seed in range(DRAWS):
        yield drawn("102 flowers, 20 photos each", both.train, both.valid, 102, 20, seed), seed
        yield drawn("10 signs, 30 photos each", halves.train, halves.valid, 10, 30, seed), seed


def answers_by_epoch(
    frozen: FrozenBackbone,
    draw: Draw,
    kind: tuple[str, float],
    run: tuple[dict[str, float], float],
    cache: FeatureCache,
) -> list[Evaluation]:
    """Train a head; return the answers of its average to the validation photos, after each epoch."""
    (layers, shrinkage), (changes, dropout) = kind, run
    classifier = frozen.classifier
    classifier.config = replace(classifier.config, num_classes=max(draw.train.labels) + 1)
    classifier.look_at(layers, bool(shrinkage))
    classifier.renew_head((512,), dropout, 0)
    recipe = replace(Recipe(TrainConfig.epochs, TrainConfig.learning_rate, TrainConfig.batch_size, VIEWS, 0), **changes)
    train = Inputs(frozen, draw.train, cache=cache, schedule=recipe.schedule, announced=False)
    valid = Inputs(frozen, draw.valid, cache=cache, announced=False)
    whitening = train.find_whitening(shrinkage) if shrinkage else None
    state, seen = TrainState(classifier, recipe), valid.whitened_by(whitening)
    answers: list[Evaluation] = []
    fit(state, train.whitened_by(whitening), seen, lambda *_: answers.append(evaluate_on(state.average.module, seen)))
    return answers


def judged(answers: Sequence[Evaluation], choosing: torch.Tensor) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield each rule, and what the epoch it chooses is worth on the other photos. `choosing`: a mask, bool (N,)."""
    choosers = [answer.of(choosing) for answer in answers]
    for rule, choose in RULES.items():
        index = choose(choosers)
        worth = answers[index].of(~choosing).at(calibrate(choosers[index]))
        yield rule, (100 * worth.accuracy, 100 * worth.calibration_error, worth.loss, index + 1)


def main() -> None:
    """Print a table for each way to run: a row for each rule and number of photos that choose."""
    parser = parser_of(__doc__)
    parser.add_argument("--signs", type=Path, required=True)
    options = parser.parse_args()
    results: dict[tuple[object, ...], list[tuple[float, ...]]] = defaultdict(list)
    for arch in BACKBONES:
        weights = str(options.lite0) if arch.startswith("timm/") else None
        frozen = FrozenBackbone(new_classifier(arch, 2, weights)[0], torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache(Path(folder), limit=1e10)
            for draw, seed in draws(options.flowers, options.signs):
                order = torch.randperm(len(draw.valid), generator=torch.Generator().manual_seed(seed))
                for kind in KINDS:
                    for name, run in RUNS.items():
                        answers = answers_by_epoch(frozen, draw, kind, run, cache)
                        for photos in (FEW, MANY):
                            choosing = torch.zeros(len(order), dtype=torch.bool).index_fill_(0, order[:photos], True)
                            for rule, worth in judged(answers, choosing):
                                results[name, kind[0], photos, rule].append(worth)
    for name in RUNS:
        columns = [(layers, photos) for layers, _ in KINDS for photos in (FEW, MANY)]
        print(f"\n| {name} | " + " | ".join(f"{layers}, {photos} choose" for layers, photos in columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for rule in RULES:
            cells = []
            for layers, photos in columns:
                accuracy, error, loss, epoch = map(
                    statistics.mean, zip(*results[name, layers, photos, rule], strict=True)
                )
                cells.append(f"{accuracy:.1f}, {error:.1f}, {loss:.3f}, {epoch:.0f}")
            print(f"| {rule} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
