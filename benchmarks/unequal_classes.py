"""Which loss should choose the epoch, and a head, where classes are unequal: for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/unequal_classes.py flowers --lite0 tf_efficientnet_lite0.pth

`flowers` holds train/, valid/ and test/; TORCH_HOME holds squeezenet1_1's weights, and the file those of timm's
tf_efficientnet_lite0. Ten classes, each of three species drawn at random: the test photos of each are equally many, the
others fall from the largest class to the smallest in equal ratios. Heads learn in a few ways; validation photos choose
an epoch of each, and of all of them one head, by the mean loss over photos and by that over classes. A cell is the
accuracy of the test photos, in percent, and their loss. The heads take ten minutes on two idle cores.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from features import Draw
from kept_epoch import answers_by_epoch
from tuning import BACKBONES, parser_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.judging.calibration import comparable_losses
from flower_classifier.judging.class_balance import balancing_weights
from flower_classifier.judging.evaluation import Evaluation, loss_gap
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import Split, Splits, load_splits

CLASSES, SPECIES = 10, 3  # species of a class
TEST, VALID, TRAIN = 24, 12, 48  # photos of the largest class
RATIOS = (1, 2, 3, 5, 10)  # of the largest class to the smallest
SEEDS = 3
HEADS: tuple[tuple[dict[str, float], float], ...] = (  # what differs from the defaults, and the dropout
    ({"epochs": 20}, 0.2),
    ({"epochs": 20, "learning_rate": 0.01}, 0.2),
    ({"epochs": 20, "label_smoothing": 0.1, "weight_decay": 1.0}, 0.5),
)


def drawn(splits: Splits, ratio: float, seed: int) -> tuple[Draw, int]:
    """Draw classes; return their photos, those of validation before those of the test, and how many validate."""
    chosen = torch.Generator().manual_seed(seed)
    kept = torch.randperm(len(splits.classes), generator=chosen)[: CLASSES * SPECIES].view(CLASSES, SPECIES).tolist()
    pool = [pair for split in splits.parts for pair in zip(split.photos, split.labels, strict=True)]
    learned: list[tuple[str, int]] = []
    choosing: list[tuple[str, int]] = []
    judging: list[tuple[str, int]] = []
    for number, species in enumerate(kept):
        members = [(photo, number) for photo, label in pool if label in species]
        members = [members[index] for index in torch.randperm(len(members), generator=chosen).tolist()]
        share = ratio ** (-number / (CLASSES - 1))
        train, valid = round(share * TRAIN), max(round(share * VALID), 1)
        judging += members[:TEST]
        choosing += members[TEST : TEST + valid]
        learned += members[TEST + VALID : TEST + VALID + train]
    root = splits.train.root
    splits_of = [
        Split(name, root, *zip(*photos, strict=True))
        for name, photos in (("train", learned), ("valid", choosing + judging))
    ]
    return Draw("", *splits_of), len(choosing)


def kept_epoch(answers: list[Evaluation], weights: torch.Tensor | None) -> int:
    """Return the epoch that a run would hold by the losses of its validation photos, weighted or not."""
    losses = [comparable_losses(answer) * (1 if weights is None else weights) for answer in answers]
    lowest = losses[0]
    best = 0
    for epoch, latest in enumerate(losses):
        lowest = latest if latest.mean() < lowest.mean() else lowest
        gap, error = loss_gap(latest, lowest)
        best = epoch if gap <= error else best
    return best


def worth(answer: Evaluation) -> tuple[float, float]:
    """Return the balanced accuracy, in percent, and the balanced loss."""
    weights = balancing_weights(answer.labels)
    return 100 * (answer.right * weights).mean().item(), (answer.losses * weights).mean().item()


def main() -> None:
    """Print a row for each backbone and ratio."""
    options = parser_of(__doc__).parse_args()
    splits = load_splits(options.flowers)
    print("| largest to smallest | epoch by photos | epoch by classes | head by photos | head by classes |")
    print("|---|---|---|---|---|")
    for arch in BACKBONES:
        weights = str(options.lite0) if arch.startswith("timm/") else None
        frozen = FrozenBackbone(new_classifier(arch, 2, weights)[0], torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache(Path(folder), limit=1e10)
            for ratio in RATIOS:
                results: dict[str, list[tuple[float, float]]] = defaultdict(list)
                for seed in range(SEEDS):
                    draw, choosers = drawn(splits, ratio, seed)
                    by_head = [answers_by_epoch(frozen, draw, ("several", 0.4), head, cache) for head in HEADS]
                    chooses = torch.arange(len(draw.valid)) < choosers
                    balanced = balancing_weights(torch.tensor(draw.valid.labels)[chooses])
                    for rule, weighing in (("photos", None), ("classes", balanced)):
                        reached = []
                        for answers in by_head:
                            choosing = [answer.of(chooses) for answer in answers]
                            epoch = kept_epoch(choosing, weighing)
                            loss = comparable_losses(choosing[epoch]) * (1 if weighing is None else weighing)
                            reached.append((loss.mean().item(), worth(answers[epoch].of(~chooses))))
                            results[f"epoch by {rule}"].append(reached[-1][1])
                        results[f"head by {rule}"].append(min(reached)[1])
                cells = []
                for name in ("epoch by photos", "epoch by classes", "head by photos", "head by classes"):
                    accuracy, loss = map(statistics.mean, zip(*results[name], strict=True))
                    cells.append(f"{accuracy:.2f}, {loss:.3f}")
                print(f"| {arch}, {ratio} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
