"""The files that a run and an evaluation leave for people: the only list of them; how files and tables are written.

The reports of several folders lie side by side, each under its folder's name. evaluation.json says in each which folder
and which checkpoint it is of, so the report of a second folder of the same name goes elsewhere.
"""

import codecs
import contextlib
import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flower_classifier.base.files import write_whole
from flower_classifier.base.messages import RunError
from flower_classifier.photos.tables import STEM

# What of a report a file belongs to. RunLog writes the history, tuning, tensorboard and summary, EvaluationReport the
# evaluation, train.py the strangers, write_facts the result
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
        "per_class.csv",
        "photos, accuracy (the recall) with its interval, precision, F1 and most frequent mistake of each class",
        "evaluation",
    ),
    ReportFile(
        "confusion_matrix.csv",
        "how many photos of each class (row) were predicted as which class (column)",
        "evaluation",
    ),
    ReportFile(
        "confusion_matrix.png",
        "the same as a picture, of many classes the alike ones side by side, with mistakes by name",
        "evaluation",
    ),
    ReportFile(
        "reliability.png",
        "how often predictions with a probability of, say, 80 % are right, and of how many",
        "evaluation",
    ),
    ReportFile(
        "sets.csv",
        "how often sets of classes hold the true one, and how many classes they have: see `predict.py --sets`",
        "evaluation",
        optional=True,  # runs that did not end have no scores to make sets by
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


def files_of(section: Part) -> list[str]:
    """Return the names of the files that a section of the report may consist of."""
    return [file.name for file in REPORT_FILES if file.part == section]


def is_there(folder: Path, tables: bool) -> bool:
    """Say whether a folder holds all that a run reports: its summary, and with `tables` the tables and pictures."""
    files = [file for file in REPORT_FILES if not file.optional and (tables or file.part == "summary")]
    return all((folder / file.name).exists() for file in files)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise RunError where the system refuses to write `path`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


# ------------------------------------------------------------------------------------------------------- tables, as CSV


Table = list[list[object]]  # header first
Record = Mapping[str, Any]  # a row by its columns; Any: each has its own type
UNENCODABLE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte of a file's name


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file as `write_table` writes it; return its rows by column. What cannot be read has none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []


def write_table(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file whole or not at all, and its folder where there is none. Raises RunError where that fails.

    It begins with a byte-order mark, by which spreadsheets recognise UTF-8.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, codecs.BOM_UTF8 + "".join(map(csv_line, rows)).encode("utf-8", "backslashreplace"))


def append_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Add rows to a CSV file. Raises RunError where that fails."""
    with writing(path), path.open("ab") as file:
        file.writelines(csv_line(cells).encode("utf-8", "backslashreplace") for cells in rows)


def csv_line(cells: Iterable[object]) -> str:
    """Return one row of a CSV table, ended by a line feed. Cells with any kind of line break are quoted."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # it quotes only what its own line ending holds
    return UNENCODABLE.sub(lambda half: ascii(half[0])[1:-1], line.getvalue().removesuffix("\r\n")) + "\n"


# ------------------------------------------------------------------------------------------------ reports of --evaluate


Facts = dict[str, object]


def report_identity(folder: Path, checkpoint: Path, labels: Path | None = None) -> Facts:
    """Identify a report by the real paths of folder and checkpoint, and of the table that labels the photos, if any."""
    source = {"labels": str(labels) if labels == STEM else os.path.realpath(labels)} if labels else {}
    return {"folder": os.path.realpath(folder), "checkpoint": os.path.realpath(checkpoint), **source}


def report_folder(checkpoint: Path, folder: Path, labels: Path | None = None) -> Path:
    """Return where the report of a folder goes: into evaluation/, beside the checkpoint, under the folder's name.

    Where another folder of that name, another table of labels, or another checkpoint beside this one has left its
    report there, or something else lies there, the name gets a number: test, test-2, test-3.
    """
    subject, name = report_identity(folder, checkpoint, labels), Path(os.path.realpath(folder)).name or "root"
    candidates = (checkpoint.parent / "evaluation" / f"{name}{ending}" for ending in endings())
    return next(path for path in candidates if not os.path.lexists(path) or subject_in(path) == subject)


def reports_on(checkpoint: Path, resumed: bool) -> list[Path]:
    """Return the files and folders that report on a checkpoint: in its run's folder, and in those of its evaluations.

    For a run that is `resumed`, the report on the search before the first epoch is left out: it stays true.
    """
    real_path, folders = os.path.realpath(checkpoint), sorted((checkpoint.parent / "evaluation").glob("*"))
    evaluations = [folder for folder in folders if (subject_in(folder) or {}).get("checkpoint") == real_path]
    of_run = [file.name for file in REPORT_FILES if not (resumed and file.part == "tuning")]
    of_evaluation = [*files_of("evaluation"), *files_of("result")]
    in_run = [checkpoint.parent / "run" / name for name in of_run]
    return in_run + [folder / name for folder in evaluations for name in of_evaluation]


def endings() -> Iterator[str]:
    """Return nothing, -2, -3, and so on: what to try at the end of a name that may be taken."""
    return itertools.chain([""], (f"-{count}" for count in itertools.count(2)))


def subject_in(report: Path) -> Facts | None:
    """Return what a report is of; None for a folder that holds no report."""
    try:
        facts = json.loads((report / RESULT_FILE).read_text(encoding="utf-8"))
        labels = {"labels": facts["labels"]} if "labels" in facts else {}
        return {"folder": facts["folder"], "checkpoint": os.path.realpath(report / facts["checkpoint"]), **labels}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_facts(report: Path, facts: Facts) -> None:
    """Write the numbers into a report, and make its folder. Raises RunError where that fails.

    The checkpoint's path is relative if it lies above the report: a run that makes room for another moves both.
    """
    with writing(report / RESULT_FILE):
        report.mkdir(parents=True, exist_ok=True)
        real_path, checkpoint = Path(os.path.realpath(report)), Path(str(facts["checkpoint"]))
        if checkpoint.parent in real_path.parents:
            facts = {**facts, "checkpoint": os.path.relpath(checkpoint, real_path)}
        write_whole(report / RESULT_FILE, f"{json.dumps(facts, indent=2)}\n".encode())
