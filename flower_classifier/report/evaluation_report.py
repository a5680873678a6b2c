"""What an evaluation leaves for people: tables and pictures, in a folder. `report_files.py` lists them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.messages import counted, percent, photos_of, printable
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.judging.verdict import wilson
from flower_classifier.photos.grey import GreyRange
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.photos.tar_files import is_tar_name
from flower_classifier.report.report_files import files_of, write_table, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_MISTAKES = 12
PHOTO_SIDE = 280  # pixels of a photo's shorter side that the grid of mistakes can show


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation, and what its photos and classes are called."""

    split: str  # which photos these are, such as "test", or ""
    evaluation: Evaluation
    photos: Sequence[Path]  # (N,)
    classes: Sequence[str]  # (C,)
    names: Sequence[str]  # (C,): what people call the classes
    set_scores: Sequence[float] = ()  # validation scores for prediction sets; empty: not known
    class_sizes: Sequence[int] | None = None  # (C,): the training photos of each class, where they are known
    grey_range: GreyRange | None = None  # of photos in grey of more than 8 bits

    @property
    def judged(self) -> str:
        """How many photos of which split: `90 test photos`. It says of those that chose the epoch that they did."""
        chosen = self.evaluation.chosen_text(self.split)
        return photos_of(self.split, len(self.evaluation)) + (f" ({chosen})" if chosen else "")

    def write(self, folder: Path) -> dict[str, Figure]:
        """Write what an evaluation found, instead of what an earlier one left there; return the figures by name.

        Raises RunError where a file cannot be written.
        """
        from flower_classifier.judging.calibration import set_table
        from flower_classifier.report.charts import draw_reliability
        from flower_classifier.report.confusion_matrix import draw_confusion
        from flower_classifier.report.pictures import save_figure

        with writing(folder):
            for name in files_of("evaluation"):
                (folder / name).unlink(missing_ok=True)
        evaluation, names = self.evaluation, [printable(name) for name in self.names]
        write_table(folder / "per_class.csv", self.per_class())
        photos = zip(self.classes, evaluation.confusion.tolist(), strict=True)  # of a true class, by predicted one
        matrix = [["class", *self.classes], *([name, *counts] for name, counts in photos)]
        write_table(folder / "confusion_matrix.csv", matrix)
        write_table(folder / "mistakes.csv", self.all_mistakes())
        if self.set_scores:
            write_table(folder / "sets.csv", set_table(evaluation, self.set_scores, self.class_sizes))
        figures = {
            "confusion_matrix": draw_confusion(evaluation, names, self.judged),
            "reliability": draw_reliability(evaluation, self.judged),
        }
        if mistakes := self.draw_most_confident():
            figures["mistakes"] = mistakes
        for name, figure in figures.items():
            save_figure(figure, folder / f"{name}.png")
        return figures

    def per_class(self) -> Iterator[list[object]]:
        """Yield the rows of per_class.csv, header first. A class without photos has no accuracy, nor recall.

        A class that is never predicted has no precision.

        Mistakes that are equally frequent stand beside each other, with semicolons between them.
        Of few photos an accuracy says little: the interval beside it says how little.
        """
        interval = ["right", "accuracy_low", "accuracy_high"]
        measures = ["precision", "recall", "f1"]
        yield ["class", "name", "photos", "accuracy", *interval, *measures, "most_frequent_mistake", "times"]
        by_measure = zip(*(values.tolist() for values in self.evaluation.of_each_class), strict=True)
        of_class = [["" if math.isnan(value) else round(value, 4) for value in values] for values in by_measure]
        classes, names, evaluation = self.classes, self.names, self.evaluation
        most_frequent: dict[int, tuple[list[str], int]] = {}  # of each class: the classes it is taken for, how often
        for true, predicted, times in evaluation.confused_pairs:  # most frequent first
            taken_for, most = most_frequent.setdefault(true, ([], times))
            taken_for += [names[predicted]] if times == most else []
        for index, counts in enumerate(evaluation.confusion):
            photos, right = int(counts.sum()), int(counts[index])
            shares: list[object] = ["", right, "", ""]
            if photos:
                low, high = wilson(right, photos)
                shares = [round(right / photos, 4), right, round(low, 4), round(high, 4)]
            numbers = [*shares, *of_class[index]]
            taken_for, most = most_frequent.get(index, ([], 0))
            yield [classes[index], names[index], photos, *numbers, "; ".join(taken_for), most]

    def all_mistakes(self) -> Iterator[list[object]]:
        """Yield the rows of mistakes.csv, header first: the photos that are predicted wrong, most confident first."""
        yield ["path", "true_class", "true_name", "predicted_class", "predicted_name", "probability"]
        classes, names, evaluation = self.classes, self.names, self.evaluation
        labels, predicted = evaluation.labels.tolist(), evaluation.predicted.tolist()
        confidence = evaluation.confidence.tolist()
        for index in evaluation.mistakes:
            true, wrong = labels[index], predicted[index]
            yield [self.photos[index], classes[true], names[true], classes[wrong], names[wrong], confidence[index]]

    def draw_most_confident(self) -> Figure | None:
        """Draw the wrong predictions with the highest probabilities; return None where there are none.

        Each photo has its predicted class below it, that class's probability, and its true class.
        """
        from flower_classifier.report.pictures import Cell, draw_sheet

        names = [printable(name) for name in self.names]
        evaluation, cells = self.evaluation, []
        labels, predicted = evaluation.labels.tolist(), evaluation.predicted.tolist()
        confidence = evaluation.confidence.tolist()
        for index in evaluation.mistakes[:MOST_MISTAKES]:
            path, true = self.photos[index], labels[index]
            with contextlib.suppress(ImageError):  # the photo has gone since; the numbers stay true
                photo, file = (
                    load_image(path, PHOTO_SIDE, self.grey_range),
                    printable(short_path(path, self.classes[true])),
                )
                remark = f"{names[predicted[index]]}  {percent(confidence[index], digits=0)}"
                cells.append(Cell(photo, remark, f"true class: {names[true]}", file))
        if not cells:
            return None
        count = len(evaluation.mistakes)
        prefix = f"the {len(cells)} most confident of " if len(cells) < count else ""
        return draw_sheet(cells, f"{self.judged}: {prefix}{counted(count, 'mistake')}")


def short_path(path: Path, class_name: str) -> str:
    """Return where a photo is, from its class's folder or its tar file on: photos of several may have the same name."""
    above = path.parts[-2::-1]
    tars = (depth for depth, name in enumerate(above, start=1) if is_tar_name(name))
    depth = next(tars, above.index(class_name) + 1 if class_name in above else 1)
    return "/".join(path.parts[-1 - depth :])
