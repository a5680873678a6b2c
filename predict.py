"""Name what is in photos, with probabilities, by a checkpoint that train.py wrote.

    python predict.py image.jpg checkpoint.pth
    python predict.py image.jpg checkpoint.pth --top_k 3 --category_names cat_to_name.json
    python predict.py image.jpg checkpoint.pth --plot prediction.png --heatmap
    python predict.py a.jpg b.jpg holiday checkpoint.pth      (photos, and all those below a folder)
    find . -name "*.jpg" | python predict.py - checkpoint.pth --format csv > answers.csv
    python predict.py flowers/test checkpoint.pth --evaluate  (where each class has a folder)

The checkpoint is all it needs: no network, no pretrained weights, and no matter which device it was trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import program  # first: Ctrl-C while torch loads should not end in a traceback

if __name__ == "__main__":
    program.begin()

# isort: split
import torch

from answers import Prediction, Writer
from data_utils import load_category_names, load_labelled
from devices import choose_device
from errors import InputError
from evaluation import evaluate, summary
from extraction import MOST_WORKERS, extract, micro_batches
from features import Inputs, whole
from heatmap import Heatmap, find_heatmap
from images import ImageError, load_image, open_views
from messages import note, progress, warn
from model_utils import Checkpoint, load_checkpoint
from predict_config import DEFAULT_TOP_K, PredictConfig, build_parser
from report import Diagnosis, write_diagnosis
from words import counted, printable

PLOTTED_SIDE = 1024  # pixels of a photo's shorter side that a plot can show
BROKEN = "the checkpoint answers with what is no number: its weights are broken; train again"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and predict."""
    config = PredictConfig(**vars(build_parser(__doc__).parse(argv)))
    device = choose_device(config.gpu)
    checkpoint = load_checkpoint(config.checkpoint)
    if config.category_names:
        checkpoint.category_names = load_category_names(config.category_names, checkpoint.classes)
    checkpoint.classifier.place(device)
    if config.evaluate:
        bad, number = evaluate_folder(config, checkpoint, device)
    else:
        bad, number = predict_photos(config, checkpoint, device), len(config.photos)
    report_bad(bad, number)


# ------------------------------------------------------------------------------------------------------ predicting


def predict_photos(config: PredictConfig, checkpoint: Checkpoint, device: torch.device) -> list[ImageError]:
    """Write the likeliest classes of every photo, and draw them where asked to; return what is wrong with the rest."""
    top_k = number_of_rows(config.top_k, checkpoint)
    pictures = config.pictures if config.plot else iter(())
    writer = Writer(config.format, several=len(config.photos) > 1)
    bad: list[ImageError] = []
    for photo, outcome in classify(checkpoint, config.photos, device):
        picture = next(pictures, None)
        if isinstance(outcome, ImageError):
            bad.append(outcome)
            continue
        likeliest = rank_classes(outcome, checkpoint, top_k)
        writer.write(photo, likeliest)
        if picture:
            draw(picture, photo, likeliest, checkpoint if config.heatmap else None, device)
    writer.close()
    return bad


@torch.inference_mode()
def classify(
    checkpoint: Checkpoint, photos: Sequence[Path], device: torch.device
) -> Iterator[tuple[Path, torch.Tensor | ImageError]]:
    """Yield each photo, in order, with the probability of every class (C,), or with what is wrong with it."""
    classifier = checkpoint.classifier

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
                    raise InputError(BROKEN)
                probabilities = (logits / checkpoint.temperature).softmax(dim=1).cpu()
                outcomes |= zip(done.indices, probabilities, strict=True)
            for index in sorted(outcomes):
                yield photos[index], outcomes[index]


def rank_classes(probabilities: torch.Tensor, checkpoint: Checkpoint, top_k: int) -> list[Prediction]:
    """Return the `top_k` likeliest of all classes (C,), likeliest first."""
    top, names = probabilities.topk(top_k), checkpoint.names
    return [
        Prediction(checkpoint.classes[index], names[index], probability)
        for index, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def number_of_rows(top_k: int | None, checkpoint: Checkpoint) -> int:
    """Return how many classes to show: as many as asked for, as far as there are."""
    number = len(checkpoint.classes)
    if top_k is not None and top_k > number:
        note(f"--top_k {top_k}: there are {number} classes, here are all of them")
    return min(top_k or DEFAULT_TOP_K, number)


def draw(
    picture: Path, photo: Path, likeliest: list[Prediction], explained_by: Checkpoint | None, device: torch.device
) -> None:
    """Draw a photo beside its likeliest classes; with the checkpoint, also which places speak for the likeliest."""
    from plots import draw_prediction, save_figure

    image = load_image(photo, PLOTTED_SIDE)
    heatmap = look_into(explained_by, photo, image.size, likeliest[0], device) if explained_by else None
    bars = [(printable(prediction.name), prediction.probability) for prediction in likeliest]
    save_figure(draw_prediction(image, printable(photo.name), bars, heatmap), picture)


def look_into(
    checkpoint: Checkpoint, photo: Path, size: tuple[int, int], likeliest: Prediction, device: torch.device
) -> Heatmap | None:
    """Return which places of a photo of `size` (width, height) speak for a class; where nothing can, say so."""
    classifier, label = checkpoint.classifier, checkpoint.classes.index(likeliest.class_name)
    (pixels,) = open_views(photo, classifier.preprocessing).to(device)  # (3, S, S)
    heatmap = find_heatmap(classifier, pixels, label, size)
    if heatmap is None:
        note(f"--heatmap: {classifier.config.arch} has no last feature map, so there is none to draw")
    return heatmap


def report_bad(bad: Sequence[ImageError], number: int) -> None:
    """Name the photos that could not be opened, and fail for them now that the others are done."""
    if bad and number == 1:
        raise bad[0]
    for error in bad:
        warn(str(error))
    if bad:
        raise InputError(f"{len(bad)} of {counted(number, 'photo')} could not be opened")


# ------------------------------------------------------------------------------------------------------- evaluating


def evaluate_folder(
    config: PredictConfig, checkpoint: Checkpoint, device: torch.device
) -> tuple[list[ImageError], int]:
    """Print how good the answers to a folder of labelled photos are; leave tables and pictures.

    Returns what is wrong with the photos that cannot be opened, and how many photos there are.
    """
    split = load_labelled(config.images[0], checkpoint.classes)
    inputs = Inputs(checkpoint.classifier, split, seed=0, device=device)
    inputs.rows()
    bad = [inputs.bad[index] for index in sorted(inputs.bad)]
    if inputs.used:
        try:
            evaluation = evaluate(checkpoint.classifier.trainee, whole(inputs)).at(checkpoint.temperature)
        except FloatingPointError:
            raise InputError(BROKEN) from None
        print(summary(split.name, evaluation), flush=True)
        folder = config.report or config.checkpoint.parent / "evaluation"
        write_diagnosis(folder, Diagnosis(split.name, evaluation, inputs.paths, checkpoint.classes, checkpoint.names))
        note(f"tables and pictures of it: {folder}")
    return bad, len(split)


if __name__ == "__main__":
    program.run(main, as_program=True)
