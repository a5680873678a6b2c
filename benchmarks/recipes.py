"""What else was tried for training the head, on the same features. Run by hand.

    TORCH_HOME=... python benchmarks/recipes.py flowers

In one process, on squeezenet1_1's features of a folder with train/, valid/ and test/: a falling learning rate instead
of the average, weight decay, mixed views, standardised features. Mean accuracies of five seeds.
"""

import math
import statistics
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.messages import counted
from flower_classifier.features.batches import to_learner
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import Inputs, Schedule, prepare_inputs
from flower_classifier.networks.classifier import ModelConfig, new_classifier
from flower_classifier.networks.devices import choose_device
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import load_splits
from flower_classifier.photos.views import USUAL
from flower_classifier.training.state import average_in

SEEDS, BATCH_SIZE, HIDDEN_UNITS, DROPOUT, RATE = range(5), 64, 512, 0.2, 0.001
LENGTHS = ((1, 5), (4, 20))  # views, epochs
RECIPES = {
    "average, Adam 0.001 (what `train.py` does)": {},
    "no average": {"average": False},
    "cosine with an epoch of warm-up, no average": {"average": False, "cosine": True},
    "cosine from 0.002, no average": {"average": False, "cosine": True, "rate": 0.002},
    "average, weight decay 0.05": {"weight_decay": 0.05},
    "average, views mixed within an epoch": {"mixed": True},
    "average, features standardised": {"standardise": True},
    "average, 1024 units, dropout 0.5": {"hidden_units": 1024, "dropout": 0.5},
    "average, 1024 units, dropout 0.5, standardised": {"hidden_units": 1024, "dropout": 0.5, "standardise": True},
}
Data = tuple[torch.Tensor, torch.Tensor]  # rows (N, D), labels (N,)


def train_head(
    views: list[Data],
    held_out: list[Data],
    epochs: int,
    seed: int,
    *,
    average: bool = True,
    cosine: bool = False,
    standardise: bool = False,
    mixed: bool = False,
    rate: float = RATE,
    weight_decay: float = 0.0,
    hidden_units: int = HIDDEN_UNITS,
    dropout: float = DROPOUT,
) -> list[float]:
    """Train one head; return the validation and test accuracy, in percent, of the epoch best on validation.

    `mixed`: each photo takes the views in an order of its own, so that every epoch has some of each.
    """
    if standardise:
        mean, deviation = views[0][0].mean(dim=0), views[0][0].std(dim=0)
        deviation[deviation == 0] = 1
        views, held_out = ([((x - mean) / deviation, y) for x, y in part] for part in (views, held_out))
    torch.manual_seed(seed)
    rows, labels = views[0]
    model = ModelConfig("none", (hidden_units,), dropout, int(labels.max()) + 1, learns="head")
    head = model.build_head(rows.shape[1])
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=weight_decay, fused=True)
    averaged = AveragedModel(head, multi_avg_fn=average_in)
    steps = math.ceil(len(labels) / BATCH_SIZE)
    found = []
    all_rows = torch.stack([rows for rows, _ in views])  # (V, N, D)
    first = torch.randint(len(views), (len(labels),)) if mixed and len(views) > 1 else 0
    for epoch in range(epochs):
        rows = all_rows[(first + epoch) % len(views), torch.arange(len(labels))]
        head.train()
        for step, chosen in enumerate(torch.randperm(len(labels)).split(BATCH_SIZE), start=epoch * steps):
            if cosine:
                warm = min(1.0, (step + 1) / steps)
                optimizer.param_groups[0]["lr"] = rate * warm * (1 + math.cos(math.pi * step / (epochs * steps))) / 2
            optimizer.zero_grad()
            F.cross_entropy(head(rows[chosen]), labels[chosen]).backward()
            optimizer.step()
            averaged.update_parameters(head)
        judged = averaged.module if average else head
        found.append([100 * accuracy(judged, *part) for part in held_out])
    return max(found, key=lambda accuracies: accuracies[0])  # of equal ones the first


@torch.inference_mode()
def accuracy(head: nn.Module, rows: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of rows (N, D) whose likeliest class is the label."""
    return (head.eval()(rows).argmax(dim=1) == labels).float().mean().item()


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    splits, device = load_splits(Path(sys.argv[1]).resolve()), choose_device(gpu=False)
    frozen = FrozenBackbone(new_classifier("squeezenet1_1", len(splits.classes))[0], device)
    most = max(views for views, _ in LENGTHS)
    train, *held_out = prepare_inputs(frozen, splits, USUAL, FeatureCache(None, 10e9), Schedule(most, most))

    def data_of(inputs: Inputs, view: int = 0) -> Data:
        return to_learner(inputs.rows(view)[torch.arange(len(inputs.labels))], device), inputs.labels

    kept = [data_of(inputs) for inputs in held_out]
    seen = [data_of(train, view) for view in range(most)]
    print(
        "| recipe |"
        + "".join(f" {counted(views, 'view')}, {epochs} epochs: valid | test |" for views, epochs in LENGTHS)
    )
    print(f"|---|{'---|---|' * len(LENGTHS)}")
    for name, settings in RECIPES.items():
        cells = []
        for views, epochs in LENGTHS:
            results = [train_head(seen[:views], kept, epochs, seed, **settings) for seed in SEEDS]
            cells += [f"{statistics.mean(values):.1f}" for values in zip(*results, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
