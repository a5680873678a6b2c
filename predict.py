"""Name what is in photos, with probabilities, by a checkpoint that train.py wrote.

    python predict.py image.jpg checkpoint.pth
    python predict.py image.jpg checkpoint.pth --top_k 3 --category_names cat_to_name.json
    python predict.py image.jpg checkpoint.pth --plot prediction.png
    python predict.py a.jpg b.jpg holiday checkpoint.pth      (photos, and all those below a folder)

The checkpoint is all it needs: no network, no pretrained weights, and no matter which device it was trained on.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import terminal  # first: Ctrl-C while torch loads should not end in a traceback

if __name__ == "__main__":
    terminal.load_quickly()

# isort: split
import torch

from command_line import Parser
from data_utils import find_photos, load_category_names
from devices import choose_device
from extraction import MOST_WORKERS, extract, micro_batches
from images import ImageError, load_image, open_views, photo_endings
from model_utils import Checkpoint, Classifier, load_checkpoint
from terminal import InputError, counted, note, percent, printable, progress, warn

DEFAULT_TOP_K = 5
PLOTTED_SIDE = 1024  # pixels of a photo's shorter side that a plot can show

Ranking = list[tuple[str, float]]  # names and probabilities, likeliest first


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and predict."""
    arguments = build_parser().parse(argv)
    photos = find_all(arguments.images)
    check_options(arguments, photos)
    device = choose_device(arguments.gpu)
    checkpoint = load_checkpoint(arguments.checkpoint)
    if arguments.category_names:
        checkpoint.category_names = load_category_names(arguments.category_names, checkpoint.classes)
    top_k = number_of_rows(arguments.top_k, checkpoint)

    bad: list[ImageError] = []
    for photo, outcome in classify(checkpoint.classifier.place(device), photos, device):
        if isinstance(outcome, ImageError):
            bad.append(outcome)
            continue
        likeliest = rank_classes(outcome, checkpoint, top_k)
        print_table(likeliest, heading=photo if len(photos) > 1 else None)
        if arguments.plot:
            from plots import draw_prediction

            draw_prediction(arguments.plot, load_image(photo, PLOTTED_SIDE), printable(photo.name), likeliest)
    report_bad(bad, len(photos))


def find_all(paths: Sequence[Path]) -> list[Path]:
    """Return the photos among the paths and below those that are folders, in the order given."""
    photos: list[Path] = []
    for path in paths:
        found = find_photos(path) if os.path.isdir(path) else [path]  # noqa: PTH112 -- Path.is_dir() may raise
        if not found:
            raise InputError(f"there are no photos below {path}")
        photos += found
    return photos


@torch.inference_mode()
def classify(
    classifier: Classifier, photos: Sequence[Path], device: torch.device
) -> Iterator[tuple[Path, torch.Tensor | ImageError]]:
    """Yield each photo, in order, with the probability of every class (C,), or with what is wrong with it."""

    def open_photo(index: int, views: Sequence[int]) -> torch.Tensor:
        return open_views(photos[index], classifier.preprocessing, views)  # (1, 3, S, S)

    work = [(indices, [0]) for indices in micro_batches(len(photos), device)]
    workers = min(len(work), MOST_WORKERS)  # for a single photo one, with every core
    shown_by_results = bool(sys.stdout and sys.stdout.isatty())
    with progress(len(photos), "photos", "photo", hidden=shown_by_results) as bar:
        for done in extract(classifier, open_photo, work, device, bar, workers):
            outcomes: dict[int, torch.Tensor | ImageError] = dict(done.errors)
            if done.indices:
                logits = classifier.trainee(done.rows[0].to(device))  # (B, C)
                if not logits.isfinite().all():
                    raise InputError(
                        "the checkpoint answers with what is no number: its weights are broken; train again"
                    )
                outcomes |= zip(done.indices, logits.softmax(dim=1).cpu(), strict=True)
            for index in sorted(outcomes):
                yield photos[index], outcomes[index]


def report_bad(bad: Sequence[ImageError], number: int) -> None:
    """Name the photos that could not be opened, and fail for them now that the others are done."""
    if bad and number == 1:
        raise bad[0]
    for error in bad:
        warn(str(error))
    if bad:
        raise InputError(f"{len(bad)} of {counted(number, 'photo')} could not be opened")


def check_options(arguments: argparse.Namespace, photos: Sequence[Path]) -> None:
    """Refuse, before any work, what could only fail after it."""
    if arguments.top_k is not None and arguments.top_k < 1:
        raise InputError(f"--top_k must be at least 1, not {arguments.top_k}")
    if arguments.checkpoint.suffix.lower() in photo_endings():
        raise InputError(f"{arguments.checkpoint} is no checkpoint, by its name: that comes last, behind the photos")
    if arguments.plot and len(photos) > 1:
        raise InputError(f"--plot draws one photo at a time, and here are {len(photos):,}")
    if arguments.plot:
        from plots import check_picture_path  # matplotlib takes its time, so it is imported for a plot alone

        check_picture_path(arguments.plot)
        for path in (*photos, arguments.checkpoint, arguments.category_names):
            if path and same_file(path, arguments.plot):
                raise InputError(f"--plot {arguments.plot} would overwrite what it is drawn from")


def same_file(one: Path, other: Path) -> bool:
    """Say whether two paths lead to the same file; where one leads nowhere they do not."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def number_of_rows(top_k: int | None, checkpoint: Checkpoint) -> int:
    """Return how many classes to show: as many as asked for, as far as there are."""
    number = len(checkpoint.classes)
    if top_k is not None and top_k > number:
        note(f"--top_k {top_k}: there are {number} classes, here are all of them")
    return min(top_k or DEFAULT_TOP_K, number)


def rank_classes(probabilities: torch.Tensor, checkpoint: Checkpoint, top_k: int) -> Ranking:
    """Return the names and probabilities of the `top_k` likeliest of all classes (C,)."""
    classes = checkpoint.classes
    top = probabilities.topk(top_k)
    names = [printable(checkpoint.category_names.get(classes[i], classes[i])) for i in top.indices.tolist()]
    return list(zip(names, top.values.tolist(), strict=True))


def print_table(rows: Ranking, heading: Path | None) -> None:
    """Print names and probabilities, aligned, in the order given; one photo of several gets a heading."""
    if heading:
        print(heading)
    indent, width = "  " if heading else "", max(len(name) for name, _ in rows)
    for name, probability in rows:
        print(f"{indent}{name:{width}}  {percent(probability, digits=2):>8}", flush=True)


def build_parser() -> Parser:
    """Build the parser; the docstring above is the text of --help."""
    what, examples, needs = __doc__.strip().split("\n\n")
    parser = Parser(prog="predict.py", description=f"{what}\n\n{needs}", epilog=f"examples:\n{examples}")
    inputs = parser.add_argument_group("input")
    inputs.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="photos (JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF), and folders of photos at any depth",
    )
    inputs.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint.pth as train.py wrote it")
    inputs.add_argument(
        "--category_names",
        type=Path,
        metavar="JSON",
        help="mapping from class folder to the name people use (default: the names given at training, if any)",
    )
    inputs.add_argument("--gpu", action="store_true", help="use CUDA or Apple's MPS where there is one")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--top_k", type=int, metavar="K", help=f"how many of the likeliest classes to show (default: {DEFAULT_TOP_K})"
    )
    output.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw the photo beside its probabilities (PNG, JPEG, WebP, PDF or SVG)",
    )
    return parser


if __name__ == "__main__":
    terminal.run(main, as_program=True)
