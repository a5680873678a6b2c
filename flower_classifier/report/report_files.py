"""The files that a run and an evaluation leave for people: the only list of them, and how they are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flower_classifier.base.errors import RunError

# What writes a file: RunLog and write_history, tuning_report.py, write_diagnosis, train.py, evaluation_report.py,
# tensorboard_log.py, write_summary
Part = Literal["history", "tuning", "evaluation", "strangers", "result", "tensorboard", "summary"]
RESULT_FILE = "evaluation.json"


@dataclass(frozen=True)
class ReportFile:
    """One file of a report, or one folder."""

    name: str  # within the report's folder
    shows: str  # what a person sees in it, for the documentation
    part: Part
    optional: bool = False  # whether there are reports without it

    @property
    def is_picture(self) -> bool:
        """Whether it is one of the report's pictures."""
        return self.name.endswith(".png")


REPORT_FILES = (
    ReportFile(
        "history.csv",
        "losses, validation accuracy and seconds: one row per epoch, written when the run saves",
        "history",
    ),
    ReportFile(
        "curves.png",
        "losses and validation accuracy, with the best epoch and the beginning of fine-tuning marked",
        "history",
    ),
    ReportFile(
        "tuning.csv",
        "with `--tune`: every head that was tried, its options and what it reached on the validation photos",
        "tuning",
        optional=True,
    ),
    ReportFile("tuning.png", "the same as a picture", "tuning", optional=True),
    ReportFile(
        "per_class.csv", "photos, accuracy and most frequent mistake of each class: one row per class", "evaluation"
    ),
    ReportFile(
        "confusion_matrix.csv",
        "how many photos of each class (row) were predicted as which class (column)",
        "evaluation",
    ),
    ReportFile("confusion_matrix.png", "the same as a picture, with the most frequent mistakes by name", "evaluation"),
    ReportFile("reliability.png", "how often predictions with a probability of, say, 80 % are right", "evaluation"),
    ReportFile(
        "sets.csv",
        "how often sets of classes hold the true one, and how many classes they have: see `predict.py --sets`",
        "evaluation",
        optional=True,  # checkpoints of earlier versions cannot make sets
    ),
    ReportFile(
        "mistakes.csv",
        "every wrong prediction, the one with the highest probability first: photo, true and predicted class",
        "evaluation",
    ),
    ReportFile(
        "mistakes.png",
        "the first of them as pictures",
        "evaluation",
        optional=True,  # there may be no mistakes
    ),
    ReportFile(
        "strangers.csv",
        "how well photos of other classes are told: some classes were left out of training, and then shown",
        "strangers",
        optional=True,  # not of networks that learn from the start, nor with --no_memory
    ),
    ReportFile(
        RESULT_FILE,
        "with `--evaluate`: loss, accuracy and calibration error, and of which folder and checkpoint they are",
        "result",
        optional=True,
    ),
    ReportFile(
        "tensorboard",
        "curves while they grow, then pictures, results and options for tensorboard, with `--tensorboard`; a folder",
        "tensorboard",
        optional=True,
    ),
    ReportFile(
        "summary.json",
        "options, results, times, versions, machine and data of the run, for programs; written last",
        "summary",
    ),
)


def files_of(part: Part) -> list[str]:
    """Return the names of the files that a part of the report may leave."""
    return [file.name for file in REPORT_FILES if file.part == part]


def is_there(folder: Path, tables: bool) -> bool:
    """Say whether a folder holds all that a run reports: its summary, and with `tables` the tables and pictures."""
    wanted = [file for file in REPORT_FILES if not file.optional and (tables or file.part == "summary")]
    return all((folder / file.name).exists() for file in wanted)


def remove_files(folder: Path, part: Part) -> None:
    """Remove what an earlier run or evaluation has left of a part. Raises RunError where that fails."""
    with writing(folder):
        for name in files_of(part):
            (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise RunError where the system refuses to write `path`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
