"""Photos in, answers out: the story that predict.py tells, for a checkpoint and for an exported folder.

A photo is named itself, by a folder or a tar file that it is in, or on standard input. What could only fail after the
work is refused before it; what fails for one photo is told when all are done.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flower_classifier.base.console import clear_bars, progress
from flower_classifier.base.messages import InputError, RunError, counted, note, warn
from flower_classifier.config.allowed import DEFAULT_RATE, DEFAULT_TOP_K
from flower_classifier.config.predict_options import QuestionConfig
from flower_classifier.photos.folders import find_photos, is_shard, photos_in, shards_of
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.mending import counting_damaged
from flower_classifier.predicting.base_predictor import Answer, BasePredictor, Verdict
from flower_classifier.predicting.output_formats import AnswerWriter, PictureWriter

STDIN = Path("-")
LACKING = "train.py ran with --no_memory, or not to its end"


class NoPhotosError(InputError):
    """A folder, or standard input, that was named rightly but holds no photo."""


def named_photos(config: QuestionConfig) -> list[Path]:
    """Return the photos that are asked about, in order: also those in folders and tar files, and for "-" stdin's.

    Raises InputError for a folder, a tar file or a standard input without photos, once programs have got an empty
    answer, and for a damaged tar file; OSError for one that cannot be read.
    """
    photos: list[Path] = []
    try:
        for path in config.images:
            for named in read_paths(config.null) if path == STDIN else [path]:
                photos += photos_below(named)
    except NoPhotosError:
        with AnswerWriter(config, several=True):
            raise
    return photos


def photos_below(path: Path) -> list[Path]:
    """Return the photos in a folder or a tar file; any other path is itself a photo. Raises NoPhotosError for none."""
    if os.path.isdir(path):  # noqa: PTH112 -- Path.is_dir() may raise
        photos, tars = find_photos(path), shards_of(path)
        if photos and tars:
            note(
                f"{path}: {counted(len(tars), 'tar file')} beside the photos left out: name them to have them answered"
            )
        photos = photos or [tar / name for tar in tars for name in photos_in(tar)]
    elif is_shard(path):
        photos = [path / name for name in photos_in(path)]
    else:
        return [path]
    if not photos:
        raise NoPhotosError(f"there are no photos below {path}")
    return photos


def read_paths(null: bool) -> list[Path]:
    """Read paths from stdin: one per line, or with `null` each ended by a NUL, as `find -print0` writes them."""
    if sys.stdin is None:
        raise InputError("-: there is no standard input to read paths from")
    if sys.stdin.isatty():
        note("reading paths of photos from the terminal, one per line; Ctrl-D ends them")
    lines = sys.stdin.buffer.read().split(b"\0" if null else b"\n")
    paths = [Path(os.fsdecode(line if null else line.removesuffix(b"\r"))) for line in lines if line.strip()]
    if not paths:
        raise NoPhotosError("-: standard input names no photo")
    return paths


def answer_photos(
    config: QuestionConfig,
    photos: Sequence[Path],
    predictor: BasePredictor,
    neighbours: int = 0,
    picture_writer: PictureWriter | None = None,
) -> None:
    """Write the likeliest classes of every photo, and with a `picture_writer` pictures of them.

    `neighbours`: the number of training photos to name too. Raises InputError where no photo can be opened, and for
    what the predictor cannot tell; RunError, at the end, where some cannot be opened or pictures cannot be drawn.
    """
    question = AnswerRules(config, predictor, neighbours)
    shown_by_results = bool(sys.stdout and sys.stdout.isatty())
    bad: list[ImageError] = []
    with (
        counting_damaged(),
        AnswerWriter(config, len(photos) > 1, predictor.names) as writer,
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
            if picture_writer:
                picture_writer.write(photos[index], verdict)
    report_failures(picture_writer.failures if picture_writer else [], bad, len(photos))


class AnswerRules:
    """What is asked about each photo, as far as the predictor can tell. Raises InputError for what it cannot."""

    def __init__(self, config: QuestionConfig, predictor: BasePredictor, neighbours: int = 0) -> None:
        self.config, self.predictor, self.neighbours = config, predictor, neighbours
        classes = len(predictor.classes)
        if config.top_k is not None and config.top_k > classes:
            note(f"--top_k {config.top_k}: there are {classes} classes, here are all of them")
        self.top_k = min(config.top_k or DEFAULT_TOP_K, classes)
        self.least = self.least_in_sets()
        self.rate = self.rate_of_strangers()
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

    def rate_of_strangers(self) -> float | None:
        """Return how many in 100 photos of the classes may be taken for strangers.

        None where nobody asks, or strangers cannot be told; 0 where there are too few validation photos to guarantee
        that rate. Raises InputError where a rate was asked for, and strangers cannot be told.
        """
        rate = DEFAULT_RATE if self.config.stranger_rate is None else self.config.stranger_rate
        promisable = self.predictor.promisable_rate(rate)
        if self.predictor.stranger_test is None and rate:
            if self.config.stranger_rate:
                raise InputError(f"needs what the checkpoint lacks: {LACKING}; --resume mends that", "stranger_rate")
            note(f"the checkpoint cannot tell photos of other things ({LACKING})")
        if self.predictor.stranger_test and promisable == 0 and self.config.stranger_rate:
            few = counted(self.predictor.stranger_test.photos, "validation photo")
            warn(f"--stranger_rate {rate:g}: {few} cannot promise that, so no photo is called a stranger")
        return promisable

    def least_in_sets(self) -> float | None:
        """Return the probability from which on a class is in a photo's set; None where nobody asks for sets."""
        if self.config.sets is None:
            return None
        least = self.predictor.least_in_sets(self.config.sets)
        if least is None:
            advice = "train.py did not run to its end; run it with --resume"
            raise InputError(f"needs scores that the checkpoint lacks: {advice}", "sets")
        if not least:
            few = counted(len(self.predictor.set_scores), "validation photo")
            warn(f"--sets {self.config.sets:g}: {few} cannot promise that, so every class is in the sets")
        return least


def report_failures(undrawn: Sequence[str], bad: Sequence[ImageError], count: int) -> None:
    """Name the pictures that could not be drawn and the photos that could not be opened, of `count`, and fail.

    Raises InputError where no photo could be opened: then the input as a whole is wrong. Raises RunError where others
    were answered, or a picture could not be drawn.
    """
    if count == 1 and bad:
        raise bad[0]
    if count == 1 and undrawn:
        raise RunError(undrawn[0])
    for failure in (*bad, *undrawn):
        warn(str(failure))
    if bad and len(bad) == count:
        raise InputError(none_opened(count))
    reasons = [answered_in_part(len(bad), count)] if bad else []
    reasons += [f"{len(undrawn)} of {counted(count, 'picture')} could not be drawn"] if undrawn else []
    if reasons:
        raise RunError(", ".join(reasons))


def none_opened(count: int) -> str:
    """Say that no photo could be opened."""
    return f"none of {counted(count, 'photo')} could be opened"


def answered_in_part(bad: int, count: int) -> str:
    """Say how many of some photos were answered: those that could be opened."""
    return f"{count - bad:,} of {counted(count, 'photo')} answered; {bad:,} could not be opened"
