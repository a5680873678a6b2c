"""What a run or an evaluation leaves for people: tables and charts, in a folder.

history.csv            a row an epoch
curves.png             the same, drawn
per_class.csv          a row a class: photos, accuracy, what it was taken for most often and how many times
confusion_matrix.png   who was taken for whom
reliability.png        how far the probabilities can be believed
mistakes.png           the surest wrong answers
tensorboard/           the same, where --tensorboard asks for it

Tables begin with a byte-order mark, by which spreadsheets know UTF-8.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from answers import csv_line
from errors import InputError, RunError
from evaluation import Evaluation
from images import ImageError, load_image
from words import counted, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plots import Mistake

MOST_MISTAKES = 12
PHOTO_SIDE = 280  # pixels of a photo's shorter side that the grid of mistakes can show
# What write_diagnosis may leave: removed first, so that nothing of an earlier evaluation stays
DIAGNOSTICS = ("per_class.csv", "confusion_matrix.png", "reliability.png", "mistakes.png")


@dataclass(frozen=True)
class Diagnosis:
    """An evaluation, and what its photos and classes are called."""

    split: str  # what the photos are, "test" say, or ""
    evaluation: Evaluation
    photos: Sequence[Path]
    classes: Sequence[str]
    names: Sequence[str]  # what people call them


def write_history(folder: Path, history: Sequence[dict[str, float]], best_epoch: int) -> dict[str, Figure]:
    """Write the epochs' numbers as a table and as curves; return the figure by its name."""
    from charts import draw_curves

    write_table(folder / "history.csv", [list(history[0]), *(row.values() for row in history)])
    return save_all(folder, {"curves": draw_curves(history, best_epoch)})


def write_diagnosis(folder: Path, diagnosis: Diagnosis) -> dict[str, Figure]:
    """Write what an evaluation found, instead of what an earlier one left there; return the figures by name."""
    from charts import draw_confusion, draw_reliability
    from plots import draw_mistakes

    with reported_errors(folder):
        for name in DIAGNOSTICS:
            (folder / name).unlink(missing_ok=True)
    write_table(folder / "per_class.csv", per_class(diagnosis))
    evaluation, names = diagnosis.evaluation, [printable(name) for name in diagnosis.names]
    photos = counted(len(evaluation), f"{diagnosis.split} photo".strip())
    figures = {
        "confusion_matrix": draw_confusion(evaluation, names, photos),
        "reliability": draw_reliability(evaluation, photos),
    }
    if mistakes := surest_mistakes(diagnosis, names):
        title = f"{photos}: the surest of {counted(len(evaluation.mistakes), 'mistake')}"
        figures["mistakes"] = draw_mistakes(mistakes, title)
    return save_all(folder, figures)


def per_class(diagnosis: Diagnosis) -> list[list[object]]:
    """Return the rows of per_class.csv, header first. A class without photos has no accuracy."""
    evaluation, names = diagnosis.evaluation, diagnosis.names
    most_frequent: dict[int, list[object]] = {}
    for true, said, times in evaluation.confused_pairs:  # most frequent first
        most_frequent.setdefault(true, [names[said], times])
    rows: list[list[object]] = [["class", "name", "photos", "accuracy", "most_frequent_mistake", "times"]]
    for index, counts in enumerate(evaluation.confusion):
        photos, right = int(counts.sum()), int(counts[index])
        accuracy = round(right / photos, 4) if photos else ""
        rows.append([diagnosis.classes[index], names[index], photos, accuracy, *most_frequent.get(index, ["", 0])])
    return rows


def surest_mistakes(diagnosis: Diagnosis, names: Sequence[str]) -> list[Mistake]:
    """Return the wrong answers that were given most surely, with their photos."""
    from plots import Mistake

    evaluation, found = diagnosis.evaluation, []
    said, confidence = evaluation.said.tolist(), evaluation.confidence.tolist()
    for index in evaluation.mistakes[:MOST_MISTAKES]:
        path = diagnosis.photos[index]
        with contextlib.suppress(ImageError):  # gone since: the numbers stay true
            photo, true = load_image(path, PHOTO_SIDE), names[evaluation.labels[index]]
            found.append(Mistake(photo, printable(path.name), names[said[index]], confidence[index], true))
    return found


def write_table(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV table for spreadsheets and programs."""
    with reported_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
            file.writelines(map(csv_line, rows))


def save_all(folder: Path, figures: dict[str, Figure]) -> dict[str, Figure]:
    """Save each figure under its name, and return them."""
    from plots import save_figure

    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    return figures


@contextlib.contextmanager
def reported_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a failed run."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


# ------------------------------------------------------------------------------------------------------- tensorboard


def check_tensorboard() -> None:
    """Raise InputError where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("needs tensorboard, which is not installed: pip install tensorboard", "tensorboard")


def write_tensorboard(folder: Path, history: Sequence[dict[str, float]], figures: dict[str, Figure]) -> None:
    """Write the epochs' numbers and the pictures for tensorboard, instead of what was there."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with reported_errors(folder), SummaryWriter(folder) as writer:
        for row in history:
            for key, value in row.items():
                if key != "epoch":
                    writer.add_scalar(key, value, row["epoch"])
        for name, figure in figures.items():
            figure.canvas.draw()
            pixels = np.asarray(figure.canvas.buffer_rgba())[:, :, :3]  # (H, W, 3)
            writer.add_image(name, pixels, history[-1]["epoch"], dataformats="HWC")
