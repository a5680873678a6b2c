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
from collections.abc import Sequence
from pathlib import Path

from flower_classifier.base import program
from flower_classifier.base.options import parse
from flower_classifier.judging.predict_config import PredictConfig

if __name__ == "__main__":  # torch takes seconds to load: --help, mistakes and Ctrl-C end the process before it does
    program.begin()
    asked = program.read_command_line(lambda: parse(PredictConfig, "predict.py", __doc__))

# isort: split
from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import note, progress, warn
from flower_classifier.base.words import counted, printable
from flower_classifier.features.inputs import Inputs, whole
from flower_classifier.judging.evaluation import evaluate, summary
from flower_classifier.judging.heatmap import Heatmap
from flower_classifier.judging.predict_paths import find_named, plan_pictures
from flower_classifier.judging.prediction import DEFAULT_TOP_K, Prediction
from flower_classifier.judging.predictor import BROKEN, Predictor
from flower_classifier.networks.checkpoint import load_checkpoint
from flower_classifier.networks.devices import choose_device
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.photos.names import load_category_names
from flower_classifier.photos.splits import load_labelled
from flower_classifier.report.formats import Writer
from flower_classifier.report.run_report import Diagnosis, write_diagnosis

PLOTTED_SIDE = 1024  # pixels of a photo's shorter side that a plot can show


def run(config: PredictConfig) -> None:
    """Answer as `config` asks: photo by photo, or with --evaluate for a folder of labelled photos.

    What could only fail after the work is refused before it.
    """
    photos = [] if config.evaluate else find_named(config.images, config.null)
    pictures = None
    if config.plot:
        sources = [config.checkpoint, *([config.category_names] if config.category_names else [])]
        pictures = plan_pictures(config.plot, photos, sources)
    checkpoint = load_checkpoint(config.checkpoint)
    category_names = load_category_names(config.category_names, checkpoint.classes)
    predictor = Predictor(checkpoint, choose_device(config.gpu), category_names)
    if config.evaluate:
        bad, number = evaluate_folder(config, predictor)
    else:
        bad, number = predict_photos(config, predictor, photos, pictures), len(photos)
    report_bad(bad, number)


# ------------------------------------------------------------------------------------------------------ predicting


def predict_photos(
    config: PredictConfig, predictor: Predictor, photos: Sequence[Path], pictures: Sequence[Path] | None
) -> list[ImageError]:
    """Write the likeliest classes of every photo, and draw them into the `pictures`, one for each.

    Returns what is wrong with the photos that cannot be opened.
    """
    top_k = number_of_rows(config.top_k, predictor)
    places = pictures or [None] * len(photos)
    writer = Writer(config.format, several=len(photos) > 1)
    bad: list[ImageError] = []
    shown_by_results = bool(sys.stdout and sys.stdout.isatty())
    with progress(len(photos), "photos", "photo", hidden=shown_by_results) as bar:
        for photo, picture, answer in zip(photos, places, predictor.answers(photos, bar), strict=True):
            if isinstance(answer, ImageError):
                bad.append(answer)
                continue
            likeliest = predictor.likeliest(answer, top_k)
            writer.write(photo, likeliest)
            if picture:
                draw(picture, photo, likeliest, predictor if config.heatmap else None)
    writer.close()
    return bad


def number_of_rows(top_k: int | None, predictor: Predictor) -> int:
    """Return how many classes to show: as many as asked for, as far as there are."""
    number = len(predictor.classes)
    if top_k is not None and top_k > number:
        note(f"--top_k {top_k}: there are {number} classes, here are all of them")
    return min(top_k or DEFAULT_TOP_K, number)


def draw(picture: Path, photo: Path, likeliest: list[Prediction], explained_by: Predictor | None = None) -> None:
    """Draw a photo beside its likeliest classes; with a predictor, also which places speak for the likeliest."""
    from flower_classifier.report.figures import save_figure
    from flower_classifier.report.pictures import draw_prediction

    image = load_image(photo, PLOTTED_SIDE)
    heatmap = look_into(explained_by, photo, image.size, likeliest[0]) if explained_by else None
    bars = [(printable(prediction.name), prediction.probability) for prediction in likeliest]
    save_figure(draw_prediction(image, printable(photo.name), bars, heatmap), picture)


def look_into(predictor: Predictor, photo: Path, size: tuple[int, int], likeliest: Prediction) -> Heatmap | None:
    """Return which places of a photo of `size` (width, height) speak for a class; where nothing can, say so."""
    heatmap = predictor.heatmap(photo, likeliest.class_name, size)
    if heatmap is None:
        note(f"--heatmap: {predictor.classifier.config.arch} has no last feature map, so there is none to draw")
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


def evaluate_folder(config: PredictConfig, predictor: Predictor) -> tuple[list[ImageError], int]:
    """Print how good the answers to a folder of labelled photos are; leave tables and pictures.

    Returns what is wrong with the photos that cannot be opened, and how many photos there are.
    """
    split = load_labelled(config.images[0], predictor.classes)
    inputs = Inputs(predictor.frozen, split)
    bad = inputs.prepare()
    if inputs.used:
        try:
            evaluation = evaluate(predictor.classifier.learner, whole(inputs)).at(predictor.checkpoint.temperature)
        except FloatingPointError:
            raise InputError(BROKEN) from None
        print(summary(split.spoken, evaluation), flush=True)
        folder = config.report or config.checkpoint.parent / "evaluation"
        write_diagnosis(folder, Diagnosis(split.spoken, evaluation, inputs.paths, predictor.classes, predictor.names))
        note(f"tables and pictures of it: {folder}")
    return bad, len(split)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict as a command line asks, within a process that goes on."""
    run(parse(PredictConfig, "predict.py", __doc__, argv))


if __name__ == "__main__":
    program.run(lambda: run(asked), as_program=True)
