"""The files that a run and an evaluation leave for people: the only list of them, and how they are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flower_classifier.base.errors import RunError

Part = Literal["history", "evaluation", "result", "tensorboard"]
RESULT_FILE = "evaluation.json"


@dataclass(frozen=True)
class ReportFile:
    """One file of a report, or one folder."""

    name: str  # within the report's folder
    shows: str  # what a person sees in it, for the documentation
    # What writes it: run_report.write_history, its write_diagnosis, evaluation_report.write_facts, or
    # tensorboard_log.write_tensorboard
    part: Part
    optional: bool = False  # whether there are reports without it

    @property
    def is_picture(self) -> bool:
        """Whether it is one of the report's pictures."""
        return self.name.endswith(".png")


REPORT_FILES = (
    ReportFile("history.csv", "losses and validation accuracy: one row per epoch", "history"),
    ReportFile("curves.png", "the same as curves, with the best epoch marked", "history"),
    ReportFile(
        "per_class.csv", "photos, accuracy and most frequent mistake of each class: one row per class", "evaluation"
    ),
    ReportFile(
        "confusion_matrix.png",
        "how many photos of each class were predicted as which class, with the most frequent mistakes by name",
        "evaluation",
    ),
    ReportFile("reliability.png", "how often predictions with a probability of, say, 80 % are right", "evaluation"),
    ReportFile(
        "mistakes.png",
        "the wrong predictions with the highest probability: photo, predicted class, true class",
        "evaluation",
        optional=True,  # there may be no mistakes
    ),
    ReportFile(
        RESULT_FILE,
        "with `--evaluate`: loss, accuracy and calibration error, and of which folder and checkpoint they are",
        "result",
        optional=True,
    ),
    ReportFile(
        "tensorboard",
        "the same numbers and pictures for tensorboard, with `--tensorboard`; a folder",
        "tensorboard",
        optional=True,
    ),
)


def files_of(part: Part) -> list[str]:
    """Return the names of the files that a part of the report may leave."""
    return [file.name for file in REPORT_FILES if file.part == part]


def report_is_there(folder: Path) -> bool:
    """Say whether a folder holds a whole report of a run."""
    return all((folder / file.name).exists() for file in REPORT_FILES if not file.optional)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise RunError where the system refuses to write `path`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
