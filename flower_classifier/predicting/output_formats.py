"""How predictions are written, photo by photo: to stdout as text for people, as JSON or CSV for programs; as pictures.

    text    one table per photo, each under a heading where there are several photos
    json    one array of objects {"path": …, "predictions": [{"class": …, "name": …, "probability": …}, …]}
    jsonl   the same objects, one per line
    csv     rows of path, rank (from 1), class, name, probability, after a header

"class" is the class's folder at training, "name" what people call it. Where the checkpoint can tell strangers, JSON's
objects and CSV's rows also have "known" and "p_known". Where a least probability is asked for, they have "sure". Where
sets are, JSON's objects have "set", the classes in it, and CSV's rows "in_set". Where neighbours are, JSON's objects
have "neighbours", objects {"path": …, "class": …, "name": …, "similarity": …}. A photo that cannot be opened is
{"path": …, "error": …} in its place; text and CSV leave it out. Programs get names and paths to the letter; people get
them printable.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from PIL import Image

from flower_classifier.base.files import check_writable
from flower_classifier.base.messages import InputError, RunError, first_few, note, percent, printable
from flower_classifier.base.signals import signals_held
from flower_classifier.config.predict_options import QuestionConfig
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.predicting.base_predictor import BasePredictor, Verdict
from flower_classifier.report.report_files import csv_line

if TYPE_CHECKING:
    from flower_classifier.judging.heatmap import Heatmap

# Bytes that a pipe takes whole or not at all (POSIX, PIPE_BUF): under PYTHONUNBUFFERED Python loses the rest of a write
# that a signal interrupts. JSON is ASCII here
PIECE = 512
BYTE_ORDER_MARK = "\ufeff"  # by which spreadsheets recognise UTF-8
MOST_NAMED = 10  # classes of a set that people are told by name
MOST_ALIGNED = 40  # letters: numbers stand in a column behind names of up to so many


class AnswerWriter:
    """Writes each photo's predictions in one of the formats; a context manager that ends the output whatever happens.

    `names`: what people call the classes; to align the answers to `several` photos.
    """

    def __init__(self, config: QuestionConfig, several: bool, names: Sequence[str] = ()) -> None:
        self.format, self.level, self.several, self.written = config.format, config.sets, several, 0
        # The columns of CSV that are asked for beside the usual ones
        self.further = [] if config.stranger_rate == 0 else ["known", "p_known"]
        self.further += [*(["sure"] if config.min_probability else []), *(["in_set"] if config.sets else [])]
        self.classes = len(names)
        self.width = min(max((len(printable(name)) for name in names), default=0), MOST_ALIGNED) if several else 0
        if sys.stdout is None:  # closed: nobody reads
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 -- for as long as the process lives

    def __enter__(self) -> AnswerWriter:
        if self.format == "csv":
            if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
                sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
            header = ["path", "rank", "class", "name", "probability", *self.further]
            sys.stdout.write(BYTE_ORDER_MARK + csv_line(header))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the output: JSON's array is closed, also after an error or Ctrl-C."""
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():  # the error says enough
            if self.format == "json":
                sys.stdout.write("\n]\n" if self.written else "[]\n")
            sys.stdout.flush()

    def write(self, photo: Path, verdict: Verdict) -> None:
        """Write one photo's predictions, at once."""
        if self.format == "text":
            self.write_table(photo, verdict)
        elif self.format == "csv":
            known_cells = [yes_or_no(verdict.known), verdict.p_known] if "known" in self.further else []
            sure = [] if verdict.sure is None else [yes_or_no(verdict.sure)]
            for rank, row in enumerate(verdict.predictions, 1):  # a set is made of the first ranks
                in_set = [] if verdict.members is None else [yes_or_no(rank <= len(verdict.members))]
                cells = [photo, rank, row.class_name, row.name, row.probability]
                sys.stdout.write(csv_line([*cells, *known_cells, *sure, *in_set]))
        elif self.format in ("json", "jsonl"):
            self.write_object(json_of(photo, verdict))
        sys.stdout.flush()

    def write_error(self, photo: Path, error: InputError) -> None:
        """Write, where the format has a place for it, that a photo cannot be opened."""
        if self.format in ("json", "jsonl"):
            self.write_object(json_of(photo, error))
            sys.stdout.flush()

    def write_object(self, text: str) -> None:
        """Write an object on a line of its own; in an array, after its separator from the one before."""
        before = ",\n" if self.written else "[\n"
        text = f"{text}\n" if self.format == "jsonl" else before + text
        with signals_held():  # a reader that is slow lets a write wait in the middle of an object
            for start in range(0, len(text), PIECE):
                sys.stdout.write(text[start : start + PIECE])
                sys.stdout.flush()
            self.written += 1

    def write_table(self, photo: Path, verdict: Verdict) -> None:
        """Print names and probabilities, aligned, likeliest first; where there are several photos below the path."""
        indent = ""
        if self.several:
            print(printable(str(photo)))
            indent = "  "
        if verdict.p_known is not None and verdict.known is False:
            print(f"{indent}{none_of(self.classes)} (stranger score {1 - verdict.p_known:.3f})")
        if verdict.sure is False:
            print(f"{indent}not sure: no class reaches {100 * verdict.min_probability:g}%")
        names = [printable(prediction.name) for prediction in verdict.predictions]
        width = self.width or max(map(len, names))
        for name, prediction in zip(names, verdict.predictions, strict=True):
            print(f"{indent}{name:{width}}  {percent(prediction.probability, digits=2):>8}")
        if verdict.members is not None:
            print(f"{indent}{self.level:g}% set: {first_few([member.name for member in verdict.members], MOST_NAMED)}")
        if verdict.neighbours:
            print(f"{indent}training photos most like it:")
            names = [printable(neighbour.name) for neighbour in verdict.neighbours]
            width = self.width or max(map(len, names))
            for name, neighbour in zip(names, verdict.neighbours, strict=True):
                print(f"{indent}  {neighbour.similarity:5.2f}  {name:{width}}  {printable(neighbour.photo)}")


def json_of(photo: Path, outcome: Verdict | InputError) -> str:
    """Return what programs read of a photo: what is predicted of it, or why it cannot be opened."""
    facts = {"error": str(outcome)} if isinstance(outcome, InputError) else outcome.plain()
    return json.dumps({"path": str(photo), **facts})


def yes_or_no(value: bool | None) -> str:
    """Return how CSV writes a truth value: as JSON does, or as nothing where it is not known."""
    return "" if value is None else str(value).lower()


def none_of(classes: int) -> str:
    """Return the clause for a photo that is a stranger to so many classes."""
    return f"not one of the {classes:,} classes it was trained on"


# ----------------------------------------------------------------------------------------------------------- pictures


PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")  # what matplotlib writes and people open
PLOTTED_SIDE = 1024  # pixels of a photo's shorter side that a picture can show
NEIGHBOUR_SIDE = 256  # the same of a training photo below it
MOST_NEIGHBOURS = 6  # more have no room


def plan_pictures(plot: Path, photos: Sequence[Path], inputs: Iterable[Path]) -> dict[Path, Path]:
    """Return the picture of each photo: the file `plot`, or in the folder `plot` one of the photo's own path and name.

    Raises InputError, before any work, where no picture can be drawn or written, or where one would overwrite a photo
    or one of the other `inputs` that it is drawn from.
    """
    if len(photos) == 1 and not plot.is_dir() and plot.suffix:
        if plot.suffix.lower() not in PICTURE_ENDINGS:
            endings = f"{', '.join(PICTURE_ENDINGS[:-1])} or {PICTURE_ENDINGS[-1]}"
            raise InputError(f"{plot}: the name should end in {endings}", "plot")
        pictures = {photos[0]: plot}
    elif plot.is_file():
        raise InputError(f"{plot} is a file; for several photos name a folder", "plot")
    else:
        absolute = {photo: Path(os.path.abspath(photo)) for photo in photos}  # noqa: PTH100 -- without any ".."
        shared = os.path.commonpath([path.parent for path in absolute.values()])
        pictures = {
            photo: plot / path.parent.relative_to(shared) / f"{path.name}.png" for photo, path in absolute.items()
        }
    sources = {os.path.realpath(path) for path in (*photos, *inputs)}
    if any(os.path.realpath(picture) in sources for picture in pictures.values()):
        raise InputError(f"{plot} would overwrite what it is drawn from", "plot")
    for folder in dict.fromkeys(picture.parent for picture in pictures.values()):
        check_writable(folder, "plot")
    if any(os.path.exists(picture) and not os.access(picture, os.W_OK) for picture in pictures.values()):  # noqa: PTH110 -- Path.exists() may raise
        raise InputError(f"{plot} cannot be overwritten: it may only be read", "plot")
    return pictures


class PictureWriter:
    """Draws photos into `pictures`; keeps failures for the end, since the other photos' answers are worth having.

    With `heatmaps` it also draws which places speak for the likeliest class, where the architecture can tell. With
    the folder of `training_photos` it also draws the most similar ones. Their names come from the checkpoint, the
    folder comes from the user: an untrusted checkpoint shall not choose what is opened.
    """

    def __init__(
        self,
        predictor: BasePredictor,
        pictures: Mapping[Path, Path],
        heatmaps: bool = False,
        training_photos: Path | None = None,
    ) -> None:
        self.predictor, self.pictures = predictor, pictures
        self.heatmaps, self.training_photos = heatmaps, training_photos
        self.failures: list[str] = []

    def write(self, photo: Path, verdict: Verdict) -> None:
        """Draw a photo beside its likeliest classes into its picture's file."""
        from flower_classifier.report.pictures import draw_prediction, save_figure

        title = printable(photo.name) + (" (not sure)" if verdict.sure is False else "")
        doubt = none_of(len(self.predictor.classes)) if verdict.known is False else ""
        bars = [(printable(prediction.name), prediction.probability) for prediction in verdict.predictions]
        try:
            image = load_image(photo, PLOTTED_SIDE, self.predictor.preprocessing.grey_range)
            heatmap = self.heatmap(photo, image.size, verdict.predictions[0].class_name) if self.heatmaps else None
            figure = draw_prediction(image, title, bars, heatmap, self.strip(verdict), doubt)
            save_figure(figure, self.pictures[photo])
        except (RunError, ImageError) as error:  # no room on the disk; or the photo is gone since it was answered
            self.failures.append(f"no picture of {printable(str(photo))}: {error}")

    def strip(self, verdict: Verdict) -> list[tuple[Image.Image | None, str, str]]:
        """Return the nearest training photos: each, where its file is still there, its class and how alike it is."""
        strip: list[tuple[Image.Image | None, str, str]] = []
        if not self.training_photos or not verdict.neighbours:
            return strip
        for neighbour in verdict.neighbours[:MOST_NEIGHBOURS]:
            photo = None
            with contextlib.suppress(ImageError):
                path, grey_range = self.training_photos / neighbour.photo, self.predictor.preprocessing.grey_range
                photo = load_image(path, NEIGHBOUR_SIDE, grey_range)
            strip.append((photo, printable(neighbour.name), f"{neighbour.similarity:.2f}"))
        return strip

    def heatmap(self, photo: Path, size: tuple[int, int], class_name: str) -> Heatmap | None:
        """Return which places of a photo of `size` (width, height) speak for a class; say once if nothing can."""
        from flower_classifier.predicting.predictor import Predictor  # here, as it loads torch

        assert isinstance(self.predictor, Predictor)  # PredictConfig refuses heat maps of an exported folder
        heatmap = self.predictor.heatmap(photo, class_name, size)
        if heatmap is None:
            arch = self.predictor.classifier.config.arch
            note(f"--heatmap: {arch} has no last feature map, so there is none to draw")
            self.heatmaps = False
        return heatmap
