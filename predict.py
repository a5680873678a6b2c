"""Name what is in a photo, with probabilities, by a checkpoint that train.py wrote.

    python predict.py image.jpg checkpoint.pth
    python predict.py image.jpg checkpoint.pth --top_k 3 --category_names cat_to_name.json
    python predict.py image.jpg checkpoint.pth --plot prediction.png

The checkpoint is all it needs: no network, no pretrained weights, and no matter which device it was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import terminal  # first: Ctrl-C while torch loads should not end in a traceback

# isort: split
import torch
from PIL import Image

from data_utils import load_category_names
from devices import choose_device
from images import load_image, preset_view
from model_utils import Checkpoint, Classifier, load_checkpoint
from terminal import InputError, Parser, note, percent

DEFAULT_TOP_K = 5


@torch.inference_mode()
def classify(classifier: Classifier, image: Image.Image, device: torch.device) -> torch.Tensor:
    """Return the probability of every class (C,) for one RGB image."""
    pixels = preset_view(image, classifier.preprocessing)  # (3, S, S)
    logits = classifier(pixels[None].to(device))  # (1, C)
    return logits.softmax(dim=1)[0].cpu()


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and predict."""
    arguments = build_parser().parse(argv)
    check_options(arguments)
    image = load_image(arguments.image)
    checkpoint = load_checkpoint(arguments.checkpoint)
    if arguments.category_names:
        checkpoint.category_names = load_category_names(arguments.category_names, checkpoint.classes)

    device = choose_device(arguments.gpu)
    probabilities = classify(checkpoint.classifier.place(device), image, device)
    likeliest = rank_classes(probabilities, checkpoint, arguments.top_k)
    print_table(likeliest)
    if arguments.plot:
        from plots import draw_prediction

        draw_prediction(arguments.plot, image, arguments.image.name, likeliest)


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse, before any work, what could only fail after it."""
    if arguments.top_k is not None and arguments.top_k < 1:
        raise InputError(f"--top_k must be at least 1, not {arguments.top_k}")
    if arguments.plot:
        from plots import check_picture_path  # matplotlib takes its time, so it is imported for a plot alone

        check_picture_path(arguments.plot)
        for path in (arguments.image, arguments.checkpoint, arguments.category_names):
            if path and path.exists() and arguments.plot.exists() and path.samefile(arguments.plot):
                raise InputError(f"--plot {arguments.plot} would overwrite what it is drawn from")


def rank_classes(probabilities: torch.Tensor, checkpoint: Checkpoint, top_k: int | None) -> list[tuple[str, float]]:
    """Return the names and probabilities of the `top_k` likeliest of all classes (C,), likeliest first."""
    classes = checkpoint.classes
    if top_k is not None and top_k > len(classes):
        note(f"--top_k {top_k}: there are {len(classes)} classes, here are all of them")
    top = probabilities.topk(min(top_k or DEFAULT_TOP_K, len(classes)))
    names = [checkpoint.category_names.get(classes[i], classes[i]) for i in top.indices.tolist()]
    return list(zip(names, top.values.tolist(), strict=True))


def print_table(rows: list[tuple[str, float]]) -> None:
    """Print names and probabilities, aligned, in the order given."""
    width = max(len(name) for name, _ in rows)
    for name, probability in rows:
        print(f"{name:{width}}  {percent(probability, digits=2):>8}")


def build_parser() -> Parser:
    """Build the parser; the docstring above is the text of --help."""
    what, examples, needs = __doc__.strip().split("\n\n")
    parser = Parser(prog="predict.py", description=f"{what}\n\n{needs}", epilog=f"examples:\n{examples}")
    inputs = parser.add_argument_group("input")
    inputs.add_argument("image", type=Path, metavar="IMAGE", help="the photo: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF")
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
    terminal.run(main)
