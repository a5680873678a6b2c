"""Photos in, answers out: the story that predict.py tells, for a checkpoint and for an exported folder.

What could only fail after the work is refused before it; what fails for one photo is told when all are done.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.console import clear_bars, note, progress, warn
from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.text import counted
from flower_classifier.config.allowed import DEFAULT_RATE, DEFAULT_TOP_K
from flower_classifier.config.predict_options import QuestionConfig
from flower_classifier.photos.images import ImageError
from flower_classifier.predicting.base_predictor import BasePredictor
from flower_classifier.predicting.formats import Writer
from flower_classifier.predicting.named_files import NoPhotosError, find_named
from flower_classifier.predicting.prediction import Answer, Verdict

if TYPE_CHECKING:
    from flower_classifier.predicting.plots import PredictionPlots

LACKING = "train.py ran with --no_memory, or not to its end"


def find_photos(config: QuestionConfig) -> list[Path]:
    """Return the photos that are asked about. Where there are none, programs get an empty answer before the error."""
    try:
        return find_named(config.images, config.null)
    except NoPhotosError:
        with Writer(config.format, several=True, further=further_columns(config)):
            raise


def answer_photos(
    config: QuestionConfig,
    photos: Sequence[Path],
    predictor: BasePredictor,
    neighbours: int = 0,
    pictures: Sequence[Path] = (),
    drawer: PredictionPlots | None = None,
) -> None:
    """Write the likeliest classes of every photo, and let the `drawer` draw them into `pictures`, one for each.

    `neighbours`: the number of training photos to name too. Raises InputError for photos that cannot be opened, and for
    what the predictor cannot tell; RunError for pictures that cannot be drawn.
    """
    question = AnswerRules(config, predictor, neighbours)
    shown_by_results = bool(sys.stdout and sys.stdout.isatty())
    bad: list[ImageError] = []
    with (
        Writer(config.format, len(photos) > 1, predictor.names, further_columns(config), config.sets) as writer,
        progress(len(photos), "photos", "photo", hidden=shown_by_results) as bar,
    ):
        for index, answer in enumerate(predictor.answers(photos, bar)):
            clear_bars(sys.stdout)
            if isinstance(answer, ImageError):
                bad.append(answer)
                writer.write_error(photos[index], answer)
                continue
            verdict = question.verdict_on(answer)
            writer.write(photos[index], verdict)
            if drawer:
                drawer.draw(pictures[index], photos[index], verdict)
    report_failures(drawer.failures if drawer else [], bad, len(photos))


class AnswerRules:
    """What is asked about each photo, as far as the predictor can tell. Raises InputError for what it cannot."""

    def __init__(self, config: QuestionConfig, predictor: BasePredictor, neighbours: int = 0) -> None:
        self.config, self.predictor, self.neighbours = config, predictor, neighbours
        self.top_k = clip_top_k(config.top_k, predictor)
        self.least = least_in_sets(config, predictor)
        self.rate = rate_of_strangers(config, predictor)
        if neighbours and not predictor.remembers_photos:
            advice = f"needs training photos that the checkpoint remembers: {LACKING}; --resume mends that"
            raise InputError(advice, "neighbours")

    def verdict_on(self, answer: Answer) -> Verdict:
        """Return all that is asked about a photo, of what the network makes of it."""
        verdict = self.predictor.verdict(answer, self.top_k, self.rate, self.least)
        members = len(verdict.members or ())
        if self.config.format == "csv" and members > self.top_k:  # csv has no other place for a set
            verdict = replace(verdict, predictions=self.predictor.likeliest(answer, members))
        alike = self.predictor.neighbours(answer, self.neighbours) if self.neighbours else None
        return replace(verdict, min_probability=self.config.min_probability, neighbours=alike)


def further_columns(config: QuestionConfig) -> list[str]:
    """Return the columns of CSV that are asked for beside the usual ones."""
    strangers = [] if config.stranger_rate == 0 else ["known", "p_known"]
    return [*strangers, *(["sure"] if config.min_probability else []), *(["in_set"] if config.sets else [])]


def rate_of_strangers(config: QuestionConfig, predictor: BasePredictor) -> float | None:
    """Return how many in 100 photos of the classes may be taken for strangers.

    None where nobody asks, or strangers cannot be told; 0 where there are too few validation photos to guarantee that
    rate. Raises InputError where a rate was asked for, and strangers cannot be told.
    """
    rate = DEFAULT_RATE if config.stranger_rate is None else config.stranger_rate
    promisable = predictor.promisable_rate(rate)
    if predictor.familiarity is None and rate:
        if config.stranger_rate:
            raise InputError(f"needs what the checkpoint lacks: {LACKING}; --resume mends that", "stranger_rate")
        note(f"the checkpoint cannot tell photos of other things ({LACKING})")
    if predictor.familiarity and promisable == 0 and config.stranger_rate:
        few = counted(predictor.familiarity.photos, "validation photo")
        warn(f"--stranger_rate {rate:g}: {few} cannot promise that, so no photo is called a stranger")
    return promisable


def least_in_sets(config: QuestionConfig, predictor: BasePredictor) -> float | None:
    """Return the probability from which on a class is in a photo's set; None where nobody asks for sets."""
    if config.sets is None:
        return None
    least = predictor.least_in_sets(config.sets)
    if least is None:
        advice = "train.py did not run to its end; run it with --resume"
        raise InputError(f"needs scores that the checkpoint lacks: {advice}", "sets")
    if not least:
        few = counted(len(predictor.set_scores), "validation photo")
        warn(f"--sets {config.sets:g}: {few} cannot promise that, so every class is in the sets")
    return least


def clip_top_k(top_k: int | None, predictor: BasePredictor) -> int:
    """Return how many classes to show: as many as asked for, at most all."""
    count = len(predictor.classes)
    if top_k is not None and top_k > count:
        note(f"--top_k {top_k}: there are {count} classes, here are all of them")
    return min(top_k or DEFAULT_TOP_K, count)


def report_failures(undrawn: Sequence[str], bad: Sequence[ImageError], count: int) -> None:
    """Name the pictures that could not be drawn and the photos that could not be opened, and fail.

    Raises RunError where a picture is among them, else InputError.
    """
    if count == 1 and bad:
        raise bad[0]
    if count == 1 and undrawn:
        raise RunError(undrawn[0])
    for failure in (*bad, *undrawn):
        warn(str(failure))
    unopened = f"{len(bad)} of {counted(count, 'photo')} could not be opened"
    if undrawn:
        pictures = f"{len(undrawn)} of {counted(count, 'picture')} could not be drawn"
        raise RunError(f"{unopened}, {pictures}" if bad else pictures)
    if bad:
        raise InputError(unopened)
