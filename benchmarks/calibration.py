"""Whether a temperature helps photos that nobody has seen, for docs/calibration.md. Run by hand.

    TORCH_HOME=... python benchmarks/calibration.py flowers --draws 10

All photos of a folder with train/, valid/ and test/ are one pool. In each draw, classes of one or several species share
out their photos: some train a head on squeezenet1_1's features, some are the validation photos, and the rest, which
neither has seen, are judged without a temperature and with the one that each rule keeps. Takes half an hour.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.seeding import fold_seed, generator
from flower_classifier.config.allowed import DEFAULT_HIDDEN_UNITS
from flower_classifier.features.batches import Batch, batches
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.judging.calibration import best_temperature, calibrate
from flower_classifier.judging.evaluation import Evaluation, evaluate
from flower_classifier.networks.classifier import ModelConfig, new_classifier
from flower_classifier.networks.devices import choose_device, seed_torch
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import Split, load_splits
from flower_classifier.photos.views import USUAL
from flower_classifier.training.ddp import Alone
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import average_in

CPU = choose_device(gpu=False)
LENGTHS = ((5, 1), (20, 4), (60, 4))  # epochs, views
VIEWS, BATCH_SIZE = 4, 64
MUCH = 0.5  # points of the calibration error by which a kind of run is better or worse


@dataclass(frozen=True)
class Task:
    """How photos are shared out. A class may be several species, for more photos of fewer classes."""

    classes: int
    species: int  # of a class
    train: int  # photos of a class
    valid: int

    def __str__(self) -> str:
        return f"{self.classes} classes, {self.train} + {self.valid} photos of each"


TASKS = (
    Task(102, 1, 5, 1), Task(102, 1, 10, 2), Task(102, 1, 16, 4),
    Task(30, 1, 5, 1), Task(30, 1, 10, 3), Task(30, 1, 16, 4), Task(30, 3, 40, 10),
    Task(10, 1, 12, 3), Task(10, 2, 24, 6), Task(10, 3, 48, 12), Task(10, 10, 160, 40),
    Task(2, 5, 10, 3), Task(2, 5, 40, 10), Task(2, 5, 48, 12), Task(2, 5, 80, 20), Task(2, 10, 160, 40),
    Task(2, 25, 400, 100),
)  # fmt: skip


def one_standard_error(valid: Evaluation) -> float:
    """Return the temperature as this program kept it until November 2026: by the loss alone."""
    if len(valid) < 10 or not valid.mistakes:
        return 1.0
    before, after = (
        F.cross_entropy(one.scaled, one.labels, reduction="none")  # (N,)
        for one in (valid, valid.cross_fitted(best_temperature))
    )
    gains = before - after
    return best_temperature(valid) if gains.mean() > gains.std() / math.sqrt(len(valid)) else 1.0


def both_fall(valid: Evaluation) -> float:
    """Return the best temperature where cross-validation lowers calibration error and loss, by however little."""
    held_out = valid.cross_fitted(best_temperature)
    helps = held_out.calibration_error < valid.calibration_error and held_out.loss < valid.loss
    return best_temperature(valid) if helps and valid.mistakes else 1.0


RULES: dict[str, Callable[[Evaluation], float]] = {
    "always": best_temperature,
    "the loss falls by a standard error": one_standard_error,
    "loss and error fall": both_fall,
    "what `train.py` does": calibrate,
}


@dataclass(frozen=True)
class Change:
    """What a temperature did to photos that were never seen."""

    kept: bool
    error: float  # change of the calibration error, in points
    loss: float  # change of the loss, in nats

    @classmethod
    def of(cls, unseen: Evaluation, temperature: float) -> Change:
        """Judge photos with a temperature and without."""
        now = unseen.at(temperature)
        error = 100 * (now.calibration_error - unseen.calibration_error)
        return cls(temperature != 1, error, now.loss - unseen.loss)


def read_pool(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return squeezenet1_1's features (VIEWS, N, D) of all photos, and their species (N,)."""
    splits = load_splits(data)
    parts = [part for part in (splits.train, splits.valid, splits.test) if part]
    photos, labels = (sum((getattr(part, name) for part in parts), ()) for name in ("photos", "labels"))
    frozen = FrozenBackbone(new_classifier("squeezenet1_1", len(splits.classes))[0], CPU)
    inputs = Inputs(
        frozen, Split("train", data, photos, labels), USUAL, FeatureCache(None, 10e9), Schedule(VIEWS, VIEWS)
    )
    every = torch.arange(len(labels))
    return torch.stack([inputs.rows(view)[every].float() for view in range(VIEWS)]), torch.tensor(labels)


def share_out(task: Task, species: torch.Tensor, draw: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw a task's photos: indices and labels of those to train on, to validate on, and of the rest."""
    rng = generator("calibration", draw, task)
    drawn = rng.permutation(int(species.max()) + 1)[: task.classes * task.species].reshape(task.classes, task.species)
    parts: tuple[list, list, list] = ([], [], [])
    for label, of_class in enumerate(torch.from_numpy(drawn)):
        photos = torch.isin(species, of_class).nonzero().squeeze(1)
        photos = photos[torch.from_numpy(rng.permutation(len(photos)))]
        number = len(photos) - task.train - task.valid
        for part, chosen in zip(parts, photos.split([task.train, task.valid, number]), strict=True):
            part.append((chosen, torch.full_like(chosen, label)))
    return [tuple(torch.cat(columns) for columns in zip(*part, strict=True)) for part in parts]


def train_head(
    rows: torch.Tensor, labels: torch.Tensor, valid: Batch, rest: Batch, epochs: int, seed: int
) -> tuple[Evaluation, Evaluation]:
    """Train on views (V, N, D) as train.py does; return the best epoch's answers to validation photos and the rest."""
    seed_torch(seed)
    classes = int(labels.max()) + 1
    head = ModelConfig("none", (DEFAULT_HIDDEN_UNITS,), 0.2, classes, learns="head").build_head(rows.shape[2])
    recipe = Recipe(epochs, 0.001, BATCH_SIZE, len(rows), seed)
    optimizer, average = recipe.optimizer(head), AveragedModel(head, multi_avg_fn=average_in)
    best: tuple[tuple[float, float], Evaluation, Evaluation] | None = None
    for epoch in range(epochs):
        view = rows[epoch % len(rows)]
        shuffled = batches(view, labels, BATCH_SIZE, CPU, fold_seed(seed, epoch))
        train_one_epoch(Alone(head), shuffled, optimizer, average, recipe)
        found = evaluate(average.module, [valid])
        rank = found.accuracy, -found.loss
        if best is None or rank > best[0]:
            best = rank, found, evaluate(average.module, [rest])
    return best[1:]


def measure(rows: torch.Tensor, species: torch.Tensor, draws: int) -> Iterator[tuple[str, str, Change]]:
    """Yield, for each rule and kind of run, how each draw's unseen photos are changed by the temperature."""
    for task in TASKS:
        for epochs, views in LENGTHS:
            for draw in range(draws):
                (train, labels), valid, rest = share_out(task, species, draw)
                held_out = [(rows[0][photos], of_class) for photos, of_class in (valid, rest)]
                chosen_on, unseen = train_head(rows[:views, train], labels, *held_out, epochs, draw)
                for name, rule in RULES.items():
                    temperature = rule(chosen_on)
                    yield name, f"{task}, {epochs} epochs", Change.of(unseen, temperature)
        print(f"{task}: done", file=sys.stderr)


def main() -> None:
    """Print the table of the rules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    found: dict[str, dict[str, list[Change]]] = defaultdict(lambda: defaultdict(list))  # rule -> kind of run -> draws
    for rule, kind, change in measure(*read_pool(options.data_dir.resolve()), options.draws):
        found[rule][kind].append(change)
    print(
        "| rule | kept, % | error, mean change | lower, % | higher, % | highest | loss, mean change | highest |\n"
        f"|{'---|' * 8}"
    )
    for rule, kinds in found.items():
        print(f"| {rule} | {' | '.join(cells(kinds.values()))} |")


def cells(kinds: Iterable[list[Change]]) -> Iterator[str]:
    """Write what a rule did: shares are of kinds of runs, each the mean of its draws."""
    kinds = list(kinds)
    errors, losses = ([statistics.mean(getattr(c, name) for c in kind) for kind in kinds] for name in ("error", "loss"))
    yield f"{100 * statistics.mean(change.kept for kind in kinds for change in kind):.0f}"
    yield f"{statistics.mean(errors):+.2f}"
    yield f"{100 * statistics.mean(error < -MUCH for error in errors):.0f}"
    yield f"{100 * statistics.mean(error > MUCH for error in errors):.0f}"
    yield f"{max(errors):+.1f}"
    yield f"{statistics.mean(losses):+.3f}"
    yield f"{max(losses):+.3f}"


if __name__ == "__main__":
    main()
