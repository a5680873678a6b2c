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
import json

from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.files import check_writable
from flower_classifier.base.messages import clear_bars, note, progress, share_terminal, warn
from flower_classifier.base.words import counted
from flower_classifier.features.inputs import judged_inputs
from flower_classifier.judging.as_predicted import evaluate_on
from flower_classifier.judging.evaluation import summary
from flower_classifier.judging.predict_paths import NoPhotosError, find_named, plan_pictures
from flower_classifier.judging.prediction import DEFAULT_RATE, DEFAULT_TOP_K, Verdict
from flower_classifier.judging.prediction_sets import least_probability
from flower_classifier.judging.predictor import BROKEN, Answer, Predictor
from flower_classifier.networks.checkpoint import Checkpoint, load_checkpoint
from flower_classifier.networks.devices import choose_device
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.names import load_category_names
from flower_classifier.photos.splits import load_labelled
from flower_classifier.report.drawn_verdicts import Drawer
from flower_classifier.report.evaluation_report import facts_of, report_folder, subject_of, write_facts
from flower_classifier.report.formats import Writer
from flower_classifier.report.run_report import Diagnosis, write_diagnosis


def run(config: PredictConfig) -> None:
    """Answer as `config` asks: photo by photo, or with --evaluate for a folder of labelled photos."""
    if config.evaluate:
        evaluate_folder(config)
    else:
        predict_photos(config)


def load_predictor(config: PredictConfig) -> Predictor:
    """Return the checkpoint, ready to be asked, with the names that people use now."""
    checkpoint = load_checkpoint(config.checkpoint)
    category_names = load_category_names(config.category_names, checkpoint.classes, checkpoint.category_names)
    return Predictor(checkpoint, choose_device(config.gpu), category_names)


# ------------------------------------------------------------------------------------------------------ predicting


def predict_photos(config: PredictConfig) -> None:
    """Write the likeliest classes of every photo, and draw them where --plot asks for it.

    What could only fail after the work is refused before it; what fails for one photo is told when all are done.
    """
    photos = find_photos(config)
    sources = [config.checkpoint, *([config.category_names] if config.category_names else [])]
    pictures = plan_pictures(config.plot, photos, sources) if config.plot else [None] * len(photos)
    predictor = load_predictor(config)
    drawer, bad = Drawer(predictor, config.heatmap, config.training_photos), []
    top_k = number_of_rows(config.top_k, predictor)
    least = least_in_sets(config, predictor.checkpoint)
    check_remembers(config, predictor.checkpoint)
    rate = rate_of_strangers(config, predictor)
    shown_by_results = bool(sys.stdout and sys.stdout.isatty())
    with (
        Writer(config.format, len(photos) > 1, predictor.names, further_columns(config), config.sets) as writer,
        progress(len(photos), "photos", "photo", hidden=shown_by_results) as bar,
    ):
        among_bars = share_terminal(sys.stdout)
        for photo, picture, answer in zip(photos, pictures, predictor.answers(photos, bar), strict=True):
            if among_bars:
                clear_bars()
            if isinstance(answer, ImageError):
                bad.append(answer)
                writer.write_error(photo, answer)
                continue
            verdict = verdict_on(answer, config, predictor, top_k, least, rate)
            writer.write(photo, verdict)
            if picture:
                drawer.draw(picture, photo, verdict)
    report_failures(drawer.failures, bad, len(photos))


def verdict_on(
    answer: Answer, config: PredictConfig, predictor: Predictor, top_k: int, least: float | None, rate: float | None
) -> Verdict:
    """Return all that is asked about a photo, of what the network makes of it."""
    members = None if least is None else predictor.set_of(answer, least)
    rows = max(top_k, len(members or ())) if config.format == "csv" else top_k  # csv has no other place for a set
    alike = predictor.neighbours(answer, config.neighbours) if config.neighbours else None
    p_known = None if rate is None else predictor.p_known(answer)
    return Verdict(predictor.likeliest(answer, rows), config.min_probability, members, alike, p_known, rate or 0.0)


def check_remembers(config: PredictConfig, checkpoint: Checkpoint) -> None:
    """Raise InputError for --neighbours of a checkpoint that remembers no photos."""
    if config.neighbours and checkpoint.memory is None:
        advice = "train.py ran with --no_memory, not to its end, or in an earlier version; --resume mends that"
        raise InputError(f"needs training photos that the checkpoint remembers: {advice}", "neighbours")


def find_photos(config: PredictConfig) -> list[Path]:
    """Return the photos that are asked about. Where there are none, programs get an empty answer before the error."""
    try:
        return find_named(config.images, config.null)
    except NoPhotosError:
        with Writer(config.format, several=True, further=further_columns(config)):
            raise


def further_columns(config: PredictConfig) -> list[str]:
    """Return the columns of CSV that are asked for beside the usual ones."""
    strangers = [] if config.stranger_rate == 0 else ["known", "p_known"]
    return [*strangers, *(["sure"] if config.min_probability else []), *(["in_set"] if config.sets else [])]


def rate_of_strangers(config: PredictConfig, predictor: Predictor) -> float | None:
    """Return how many in 100 photos of the classes may be taken for strangers; None where nobody asks, or can tell.

    0 where there are too few validation photos to promise what is asked for. Raises InputError where the checkpoint
    cannot tell strangers, and that was asked for.
    """
    rate = DEFAULT_RATE if config.stranger_rate is None else config.stranger_rate
    if not rate:
        return None
    if predictor.familiarity is None:
        reason = "train.py ran with --no_memory, not to its end, or in an earlier version"
        if config.stranger_rate:
            raise InputError(f"needs what the checkpoint lacks: {reason}; --resume mends that", "stranger_rate")
        note(f"the checkpoint cannot tell photos of other things ({reason})")
        return None
    if rate / 100 * (1 + predictor.familiarity.photos) >= 1:
        return rate
    if config.stranger_rate:
        few = counted(predictor.familiarity.photos, "validation photo")
        warn(f"--stranger_rate {rate:g}: {few} cannot promise that, so no photo is called a stranger")
    return 0.0


def least_in_sets(config: PredictConfig, checkpoint: Checkpoint) -> float | None:
    """Return the probability from which on a class is in a photo's set; None where nobody asks for sets."""
    if config.sets is None:
        return None
    if not checkpoint.set_scores:
        advice = "it is from an earlier version; train again, or run train.py with --resume once more"
        raise InputError(f"needs scores that the checkpoint lacks: {advice}", "sets")
    least = least_probability(checkpoint.set_scores, config.sets)
    if not least:
        few = counted(len(checkpoint.set_scores), "validation photo")
        warn(f"--sets {config.sets:g}: {few} cannot promise that, so every class is in the sets")
    return least


def number_of_rows(top_k: int | None, predictor: Predictor) -> int:
    """Return how many classes to show: as many as asked for, as far as there are."""
    number = len(predictor.classes)
    if top_k is not None and top_k > number:
        note(f"--top_k {top_k}: there are {number} classes, here are all of them")
    return min(top_k or DEFAULT_TOP_K, number)


def report_failures(undrawn: Sequence[str], bad: Sequence[ImageError], number: int) -> None:
    """Name the pictures that could not be drawn and the photos that could not be opened; fail for them.

    Raises RunError where there is a picture among them, else InputError.
    """
    if number == 1 and bad:
        raise bad[0]
    if number == 1 and undrawn:
        raise RunError(undrawn[0])
    for failure in (*bad, *undrawn):
        warn(str(failure))
    unopened = f"{len(bad)} of {counted(number, 'photo')} could not be opened"
    if undrawn:
        pictures = f"{len(undrawn)} of {counted(number, 'picture')} could not be drawn"
        raise RunError(f"{unopened}, {pictures}" if bad else pictures)
    if bad:
        raise InputError(unopened)


# ------------------------------------------------------------------------------------------------------- evaluating


def evaluate_folder(config: PredictConfig) -> None:
    """Print how good the answers to a folder of labelled photos are; leave tables and pictures."""
    folder = config.images[0]
    report = config.report or report_folder(config.checkpoint, folder)
    check_writable(report, "report")
    predictor = load_predictor(config)
    split = load_labelled(folder, predictor.classes)
    inputs = judged_inputs(predictor.frozen, split)
    inputs.prepare()
    evaluation = None
    if inputs.used:
        try:
            evaluation = evaluate_on(predictor.classifier.learner, inputs).at(predictor.checkpoint.temperature)
        except FloatingPointError:
            raise InputError(BROKEN) from None
    bad = [(split.root / photo, error) for photo, error in zip(inputs.left_out, inputs.errors, strict=True)]
    facts = facts_of(subject_of(folder, config.checkpoint), split.name, evaluation, bad)
    if config.format == "json":
        print(json.dumps(facts), flush=True)
    elif evaluation:
        print(summary(split.name, evaluation), flush=True)
    if evaluation:
        write_facts(report, facts)
        known = (predictor.classes, predictor.names, predictor.checkpoint.set_scores)
        write_diagnosis(report, Diagnosis(split.name, evaluation, inputs.paths, *known))
        note(f"tables and pictures of it: {report}")
    report_failures([], [error for _, error in bad], len(split))


def main(argv: Sequence[str] | None = None) -> None:
    """Predict as a command line asks, within a process that goes on."""
    run(parse(PredictConfig, "predict.py", __doc__, argv))


if __name__ == "__main__":
    program.run(lambda: run(asked), as_program=True)
