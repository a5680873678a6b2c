"""How well photos of none of the classes are told, for docs/strangers.md. Run by hand.

    TORCH_HOME=... python benchmarks/strangers.py flowers --lite0 tf_efficientnet_lite0.pth [--photos far] [--choice]

`flowers` holds train/, valid/ and test/; TORCH_HOME holds squeezenet1_1's weights, and the file those of timm's
tf_efficientnet_lite0. For each backbone, three times, a run learns 80 of the classes, drawn at random. Near strangers
are the photos of the other classes. Far ones are drawn: flowers like those of the demo, noise, gradients, pages of
text, windows on a screen; and, with `--photos`, the photos in that folder. The table says how often a stranger is
stranger than a photo of a known class (AUROC), by what is used and by its parts, and how many known photos are called
strangers at a rate of 5 %. With `--choice` validation photos judge, with other shares of all directions alike in the
covariances, and with 5, 10 and all training photos of a class: so the share was chosen. Takes ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from compare import run
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tuning import BACKBONES, SEEDS, parser_of, weights_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.judging import strangers
from flower_classifier.judging.conformal import StrangerTest
from flower_classifier.judging.strangers import Clusters, auroc
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.demo import draw_dataset
from flower_classifier.predicting.predictor import Predictor

KNOWN = 80  # classes
PICTURES = 30  # of each kind that is drawn
SHARES = (0.02, 0.1, 0.3, 0.5, 0.8)


def draw_far(folder: Path) -> None:
    """Draw pictures that are none of the flowers, in a folder for each kind."""
    draw = np.random.default_rng(0)
    draw_dataset(folder / "drawn flowers", {"test": PICTURES // 6})
    for kind in ("noise", "gradients", "text", "screens"):
        (folder / kind).mkdir(parents=True)
    for index in range(PICTURES):
        scale = (1, 4, 16, 64)[index % 4]
        pixels = draw.integers(0, 256, (256 // scale + 1, 320 // scale + 1, 3), dtype=np.uint8)
        how = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)[index % 2]
        save(Image.fromarray(pixels).resize((320, 256), how), folder / "noise", index)
        corners = Image.fromarray(draw.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        save(corners.resize((320, 256), Image.Resampling.BILINEAR), folder / "gradients", index)
        save(text_page(draw), folder / "text", index)
        save(screen(draw, dark=index % 2 == 0), folder / "screens", index)


def save(picture: Image.Image, folder: Path, index: int) -> None:
    """Save a picture under a number."""
    picture.save(folder / f"{index}.jpg", quality=92)


def text_page(draw: np.random.Generator) -> Image.Image:
    """Return a page of text, scanned a little askew."""
    page = Image.new("RGB", (420, 560), tuple(map(int, draw.integers(225, 256, 3))))
    write(ImageDraw.Draw(page), draw, int(draw.integers(10, 26)), 14, 400, 540, (20, 20, 20))
    page = page.rotate(draw.normal(0, 2), Image.Resampling.BICUBIC, fillcolor=(240, 240, 235))
    grain = draw.normal(0, 6, (560, 420, 3))
    return Image.fromarray((np.asarray(page) + grain).clip(0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.6)
    )


def screen(draw: np.random.Generator, dark: bool) -> Image.Image:
    """Return a screen with windows and text."""
    picture = Image.new("RGB", (640, 400), (30, 32, 38) if dark else (245, 246, 248))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, 640, 26), (60, 64, 72) if dark else (222, 224, 230))
    for _ in range(draw.integers(2, 6)):
        left, top = draw.integers(0, 490), draw.integers(30, 300)
        right, bottom = left + draw.integers(80, 300), top + draw.integers(50, 160)
        pen.rounded_rectangle((left, top, right, bottom), 8, tuple(map(int, draw.integers(0, 256, 3))))
    write(pen, draw, 14, 20, 320, 400, (220, 220, 220) if dark else (30, 30, 30))
    return picture


def write(
    pen: ImageDraw.ImageDraw, draw: np.random.Generator, size: int, left: int, width: int, height: int, ink: tuple
) -> None:
    """Fill a column with words."""
    words, font = (__doc__ or "").split(), ImageFont.load_default(size)
    for top in range(40, height - size, int(size * 1.4)):
        begin = int(draw.integers(0, len(words) - 18))
        pen.text((left, top), " ".join(words[begin : begin + 18])[: int(2 * width / size)], ink, font)


def part_of(flowers: Path, folder: Path, known: set[str], per_class: int | None) -> None:
    """Copy the training and validation photos of some classes, so many training photos of each."""
    shutil.rmtree(folder, ignore_errors=True)
    for split in ("train", "valid"):
        for name in sorted(known):
            (folder / split / name).mkdir(parents=True)
            photos = sorted((flowers / split / name).iterdir())
            for photo in photos[: per_class if split == "train" else None]:
                shutil.copy2(photo, folder / split / name)


class Looked:
    """How strange photos look to a checkpoint, by each part and by both."""

    def __init__(self, predictor: Predictor, photos: list[Path]) -> None:
        answers = list(predictor.answers(photos))
        self.features = torch.from_numpy(np.stack([answer.features for answer in answers]))
        self.probabilities = torch.from_numpy(np.stack([predictor.probabilities(answer) for answer in answers]))

    def scores(self, clusters: Clusters, stranger_test: StrangerTest) -> dict[str, torch.Tensor]:
        """Return the scores of the parts and of both, higher for strangers."""
        scores = clusters.strangeness(self.features, self.probabilities)
        p_known = torch.tensor([stranger_test.p_value(score) for score in scores], dtype=torch.float64)
        return {"both": -p_known, "probability": scores[:, 0], "distance": scores[:, 1]}


def photos_below(folder: Path, classes: set[str] | None = None) -> list[Path]:
    """Return the photos below a folder, of some of the class folders in it."""
    return [path for path in sorted(folder.rglob("*.jpg")) if classes is None or path.parent.name in classes]


def judged(options: argparse.Namespace, predictor: Predictor, known: set[str], far: dict[str, Looked]) -> list[dict]:
    """Return, for each share that is looked at, the AUROC of each score with near and far strangers."""
    others = {path.name for path in (options.flowers / "train").iterdir()} - known
    splits = ("valid",) if options.choice else ("test",)
    familiar = Looked(predictor, photos_below(options.flowers / splits[0], known))
    strange = {"near": Looked(predictor, photos_below(options.flowers / splits[0], others)), **far}
    valid = Looked(predictor, photos_below(options.flowers / "valid", known))
    found = []
    for share in SHARES if options.choice else (strangers.SHRINKAGE,):
        strangers.SHRINKAGE = share
        clusters = Clusters(predictor.feature_bank, predictor.stranger_measure)
        reference = clusters.strangeness(valid.features, valid.probabilities)
        stranger_test = StrangerTest(reference)
        of_known = familiar.scores(clusters, stranger_test)
        row: dict = {"share": share, "false alarms": (of_known["both"] >= -0.05).double().mean().item()}
        for kind, looked in strange.items():
            for score, values in looked.scores(clusters, stranger_test).items():
                row[kind, score] = auroc(of_known[score], values)
        found.append(row)
    return found


def main() -> None:
    """Print the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--choice", action="store_true")
    options = parser.parse_args()
    options.flowers = options.flowers.absolute()
    names = sorted(path.name for path in (options.flowers / "train").iterdir())
    with tempfile.TemporaryDirectory() as folder:
        draw_far(Path(folder) / "far")
        kinds = {path.name: photos_below(path) for path in sorted((Path(folder) / "far").iterdir())}
        if options.photos:
            kinds["photos"] = photos_below(options.photos)
        kinds["all far"] = [photo for photos in kinds.values() for photo in photos]
        for arch in BACKBONES:
            for per_class in (None, 10, 5) if options.choice else (None,):
                rows = collections.defaultdict(list)
                for seed in range(SEEDS):
                    known = set(np.random.default_rng(seed).permutation(names)[:KNOWN])
                    part_of(options.flowers, Path(folder) / "part", known, per_class)
                    own = (Path(folder) / "part", *weights_of(arch, options), "--seed", seed, "--no_report")
                    run("train.py", *own, "--cache_dir", f"{folder}/cache", "--save_dir", f"{folder}/run")
                    predictor = Predictor(Checkpoint.load(Path(folder) / "run" / "checkpoint.pth"), torch.device("cpu"))
                    far = {kind: Looked(predictor, photos) for kind, photos in kinds.items()}
                    for row in judged(options, predictor, known, far):
                        rows[row["share"]].append(row)
                for share, draws in rows.items():
                    show(f"{arch}, {per_class or 'all'} a class, share {share}", draws)


def show(title: str, draws: list[dict]) -> None:
    """Print the means and ranges over the draws."""
    alarms = [100 * draw["false alarms"] for draw in draws]
    print(f"\n{title}; false alarms {statistics.mean(alarms):.1f} % ({min(alarms):.1f}-{max(alarms):.1f})\n")
    print("| strangers | both | probability | distance |\n|---|---|---|---|")
    for kind in dict.fromkeys(key[0] for key in draws[0] if isinstance(key, tuple)):
        cells = []
        for score in ("both", "probability", "distance"):
            values = [draw[kind, score] for draw in draws]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
