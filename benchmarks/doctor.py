"""What --doctor finds of planted errors, for docs/doctor.md. Run by hand.

    TORCH_HOME=... python benchmarks/doctor.py flowers --lite0 tf_efficientnet_lite0.pth

`flowers` holds train/, valid/ and test/; TORCH_HOME holds squeezenet1_1's weights, and the file those of timm's
tf_efficientnet_lite0. Into a copy of it go 150 wrong labels and 60 twins, 20 of them in another split than their photo:
saved again, smaller, mirrored, or cut by a tenth. For each backbone and three draws, the table says how many of them
are among the first 150 and 60 findings, how many of the first 50 labels are wrong, and the same for rankings that
cleanlab makes of the same out-of-fold probabilities (pip install cleanlab). Then what --doctor takes without and with
the features in the cache, whole processes. Takes ten minutes on two cores.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from compare import run
from PIL import Image, ImageOps
from tuning import BACKBONES, SEEDS, parser_of, weights_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.doctor.second_opinion import SCHEDULE, memory_of_all, second_opinion
from flower_classifier.features.feature_cache import FeatureCache
from flower_classifier.features.inputs import prepare_inputs
from flower_classifier.judging.calibration import calibrate
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone
from flower_classifier.photos.splits import load_splits
from flower_classifier.photos.views import USUAL
from flower_classifier.report.report_files import read_table

LABELS, TWINS, ACROSS = 150, 60, 20
TWIN_KINDS = ("leak", "two_labels", "same_photo")
METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")


def plant(flowers: Path, folder: Path, seed: int) -> tuple[set[str], set[frozenset[str]]]:
    """Copy the flowers with wrong labels and twins among them; return the paths of the ones and pairs of the others."""
    draw = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(flowers, folder)
    splits = ("train", "valid", "test")
    photos = [photo for split in splits for photo in sorted((folder / split).rglob("*.jpg"))]
    classes = sorted(path.name for path in (folder / "train").iterdir())
    order, wrong, pairs = draw.permutation(len(photos)).tolist(), set(), set()
    for index in order[:LABELS]:
        photo = photos[index]
        other = str(draw.choice([name for name in classes if name != photo.parent.name]))
        moved = photo.rename(photo.parent.parent / other / f"moved_{photo.name}")
        wrong.add(moved.relative_to(folder).as_posix())
    for number, index in enumerate(order[LABELS : LABELS + TWINS]):
        photo = photos[index]
        own = photo.relative_to(folder).parts[0]
        split = str(draw.choice([name for name in splits if name != own])) if number < ACROSS else own
        twin = folder / split / photo.parent.name / f"twin_{photo.name}"
        changed(Image.open(photo), number % 4, draw).save(twin, quality=int(draw.integers(60, 90)))
        pairs.add(frozenset(path.relative_to(folder).as_posix() for path in (photo, twin)))
    return wrong, pairs


def changed(photo: Image.Image, how: int, draw: np.random.Generator) -> Image.Image:
    """Return a photo as it is, smaller, mirrored, or cut by a tenth of either side."""
    width, height = photo.size
    left, top = draw.integers(0, width // 10 + 1), draw.integers(0, height // 10 + 1)
    return (
        photo.copy,
        lambda: photo.resize((round(0.6 * width), round(0.6 * height)), Image.Resampling.LANCZOS),
        lambda: ImageOps.mirror(photo),
        lambda: photo.crop((left, top, left + width - width // 10, top + height - height // 10)),
    )[how]()


def found(report: Path, wrong: set[str], pairs: set[frozenset[str]]) -> dict[str, float]:
    """Return how much of what was planted is at the head of doctor.csv."""
    table = read_table(report)
    labels = [row["path"] in wrong for row in table if row["finding"] == "label"]
    twins = {frozenset((row["path"], row["other"])): row["score"] for row in table if row["finding"] in TWIN_KINDS}
    first = sorted(twins, key=lambda pair: -float(twins[pair]))[:TWINS]
    return {
        "labels": sum(labels[:LABELS]),
        "precision at 50": statistics.mean(labels[:50]),
        "twins": sum(pair in pairs for pair in first),
        "all twins": sum(pair in pairs for pair in twins),
        "pairs listed": len(twins),
    }


def found_by_cleanlab(own: tuple[object, ...], data: Path, cache: str, wrong: set[str]) -> dict[str, float]:
    """Return how many wrong labels are among the first of each of cleanlab's rankings."""
    from cleanlab.rank import get_label_quality_scores

    arch, weights = str(own[1]), str(own[3]) if len(own) > 2 else None
    splits = load_splits(data)
    classifier, _ = new_classifier(arch, len(splits.classes), weights)
    parts = prepare_inputs(
        FrozenBackbone(classifier, torch.device("cpu")), splits, USUAL, FeatureCache(Path(cache), 1e10), SCHEDULE
    )
    parts = [part for part in parts if part]
    opinion = second_opinion(parts, len(splits.classes), memory_of_all(parts), ())
    temperature = calibrate(Evaluation(opinion.logits[opinion.is_training], opinion.labels[opinion.is_training]))
    probabilities = (opinion.logits.double() / temperature).softmax(dim=1).numpy()
    photos = np.array([photo in wrong for part in splits.parts for photo in part.photos])
    numbers = {}
    for method in METHODS:
        ranking = photos[np.argsort(get_label_quality_scores(opinion.labels.numpy(), probabilities, method=method))]
        numbers[f"cleanlab {method}, labels"] = int(ranking[:LABELS].sum())
        numbers[f"cleanlab {method}, precision at 50"] = float(ranking[:50].mean())
    return numbers


def main() -> None:
    """Print the tables."""
    options = parser_of(__doc__).parse_args()
    flowers = options.flowers.absolute()
    with tempfile.TemporaryDirectory() as folder:
        for arch in BACKBONES:
            own, draws = weights_of(arch, options), []
            for seed in range(SEEDS):
                data, cache = Path(folder) / "data", f"{folder}/cache-{seed}-{arch.replace('/', '-')}"
                wrong, pairs = plant(flowers, data, seed)
                where = ("--doctor", "--cache_dir", cache, "--save_dir", f"{folder}/run")
                run("train.py", data, *own, *where)
                numbers = found(Path(folder) / "run" / "doctor" / "doctor.csv", wrong, pairs)
                draws.append({**numbers, **found_by_cleanlab(own, data, cache, wrong)})
            print(f"\n{arch}\n\n| found | mean | draws |\n|---|---|---|")
            for name in draws[0]:
                values = [draw[name] for draw in draws]
                print(f"| {name} | {statistics.mean(values):.2f} | {', '.join(f'{one:g}' for one in values)} |")
            where = ("--doctor", "--cache_dir", f"{folder}/timed", "--save_dir", f"{folder}/run")
            first, second = (run("train.py", flowers, *own, *where) for _ in range(2))
            shutil.rmtree(f"{folder}/timed")
            took = f"{first.seconds:.1f} s, {first.megabytes:.0f} MB; again {second.seconds:.1f} s"
            print(f"\n--doctor: {took}", flush=True)


if __name__ == "__main__":
    main()
