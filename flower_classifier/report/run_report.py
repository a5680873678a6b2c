"""What a run or an evaluation leaves for people: tables and pictures, in a folder. `report_files.py` lists them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.words import counted, photos_of, printable
from flower_classifier.photos.images import ImageError, load_image
from flower_classifier.photos.tar_index import is_tar_name
from flower_classifier.report.report_files import remove_files
from flower_classifier.report.run_log import table_of
from flower_classifier.report.tables import Record, all_mistakes, confusion_matrix, per_class, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flower_classifier.judging.evaluation import Evaluation
    from flower_classifier.report.pictures import Mistake

MOST_MISTAKES = 12
PHOTO_SIDE = 280  # pixels of a photo's shorter side that the grid of mistakes can show


@dataclass(frozen=True)
class Diagnosis:
    """An evaluation, and what its photos and classes are called."""

    split: str  # which photos these are, such as "test", or ""
    evaluation: Evaluation
    photos: Sequence[Path]  # (N,)
    classes: Sequence[str]  # (C,)
    names: Sequence[str]  # (C,): what people call the classes
    set_scores: Sequence[float] = ()  # what sets are made by; none: not known
    class_sizes: Sequence[int] | None = None  # (C,): the training photos of each class, where they are known

    @property
    def judged(self) -> str:
        """How many photos of which split: `90 test photos`. Validation photos judge too kindly, which it says."""
        chose = " (they chose the epoch)" if self.split == "valid" else ""
        return photos_of(self.split, len(self.evaluation)) + chose


def write_history(folder: Path, rows: Sequence[Record], best_epoch: int, began: int | None = None) -> dict[str, Figure]:
    """Write the epochs' numbers and seconds (RunLog.rows) as a table and as curves; return the figure by its name.

    `began`: the number of epochs after which fine-tuning began, where it did.
    Raises RunError where a file cannot be written.
    """
    from flower_classifier.report.charts import draw_curves

    write_table(folder / "history.csv", table_of(rows))
    return save_all(folder, {"curves": draw_curves(rows, best_epoch, began)})


def write_diagnosis(folder: Path, diagnosis: Diagnosis) -> dict[str, Figure]:
    """Write what an evaluation found, instead of what an earlier one left there; return the figures by name.

    Raises RunError where a file cannot be written.
    """
    from flower_classifier.report.charts import draw_reliability
    from flower_classifier.report.confusion import draw_confusion
    from flower_classifier.report.sets_table import set_table

    remove_files(folder, "evaluation")
    evaluation, names = diagnosis.evaluation, [printable(name) for name in diagnosis.names]
    classes = diagnosis.classes, diagnosis.names
    write_table(folder / "per_class.csv", per_class(evaluation, *classes))
    write_table(folder / "confusion_matrix.csv", confusion_matrix(evaluation, diagnosis.classes))
    write_table(folder / "mistakes.csv", all_mistakes(evaluation, diagnosis.photos, *classes))
    if diagnosis.set_scores:
        write_table(folder / "sets.csv", set_table(evaluation, diagnosis.set_scores, diagnosis.class_sizes))
    figures = {
        "confusion_matrix": draw_confusion(evaluation, names, diagnosis.judged),
        "reliability": draw_reliability(evaluation, diagnosis.judged),
    }
    if mistakes := draw_most_confident(diagnosis):
        figures["mistakes"] = mistakes
    return save_all(folder, figures)


def draw_most_confident(diagnosis: Diagnosis) -> Figure | None:
    """Draw the wrong predictions with the highest probabilities; return None where there are none."""
    from flower_classifier.report.pictures import draw_mistakes

    mistakes = most_confident_mistakes(diagnosis, [printable(name) for name in diagnosis.names])
    if not mistakes:
        return None
    number = len(diagnosis.evaluation.mistakes)
    chosen = f"the {len(mistakes)} most confident of " if len(mistakes) < number else ""
    return draw_mistakes(mistakes, f"{diagnosis.judged}: {chosen}{counted(number, 'mistake')}")


def most_confident_mistakes(diagnosis: Diagnosis, names: Sequence[str]) -> list[Mistake]:
    """Return the wrong predictions with the highest probabilities, highest first, with their photos."""
    from flower_classifier.report.pictures import Mistake

    evaluation, found = diagnosis.evaluation, []
    labels, predicted = evaluation.labels.tolist(), evaluation.predicted.tolist()
    confidence = evaluation.confidence.tolist()
    for index in evaluation.mistakes[:MOST_MISTAKES]:
        path = diagnosis.photos[index]
        with contextlib.suppress(ImageError):  # the photo has gone since; the numbers stay true
            photo, true = load_image(path, PHOTO_SIDE), names[labels[index]]
            file = printable(below_class(path, diagnosis.classes[labels[index]]))
            found.append(Mistake(photo, file, names[predicted[index]], confidence[index], true))
    return found


def below_class(path: Path, class_name: str) -> str:
    """Return where a photo is, from its class's folder or its tar file on: photos of several may have the same name."""
    above = path.parts[-2::-1]
    tars = (depth for depth, name in enumerate(above, start=1) if is_tar_name(name))
    depth = next(tars, above.index(class_name) + 1 if class_name in above else 1)
    return "/".join(path.parts[-1 - depth :])


def save_all(folder: Path, figures: dict[str, Figure]) -> dict[str, Figure]:
    """Save each figure under its name, and return them."""
    from flower_classifier.report.figures import save_figure

    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return figures
