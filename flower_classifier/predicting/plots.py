"""predict.py --plot: pictures of photos beside what is predicted of them, one file for each photo."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from flower_classifier.base.console import note
from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.files import check_writable
from flower_classifier.base.text import printable
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.predicting.base_predictor import BasePredictor
from flower_classifier.predicting.output_formats import none_of
from flower_classifier.predicting.prediction import Verdict

if TYPE_CHECKING:
    from flower_classifier.judging.heatmap import Heatmap

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
        from flower_classifier.report.figures import draw_prediction, save_figure

        title = printable(photo.name) + (" (not sure)" if verdict.sure is False else "")
        doubt = none_of(len(self.predictor.classes)) if verdict.known is False else ""
        bars = [(printable(prediction.name), prediction.probability) for prediction in verdict.predictions]
        try:
            image = load_image(photo, PLOTTED_SIDE)
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
                photo = load_image(self.training_photos / neighbour.photo, NEIGHBOUR_SIDE)
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
