"""Tables as CSV, for spreadsheets and programs.

Files begin with a byte-order mark, by which spreadsheets recognise UTF-8.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.report.report_files import writing

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation

UNENCODABLE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # half letters that stand for no byte of a file's name


def per_class(evaluation: Evaluation, classes: Sequence[str], names: Sequence[str]) -> list[list[object]]:
    """Return the rows of per_class.csv, header first. A class without photos has no accuracy.

    `classes` are the class folders, `names` what people call them, both (C,).
    """
    most_frequent: dict[int, list[object]] = {}
    for true, predicted, times in evaluation.confused_pairs:  # most frequent first
        most_frequent.setdefault(true, [names[predicted], times])
    rows: list[list[object]] = [["class", "name", "photos", "accuracy", "most_frequent_mistake", "times"]]
    for index, counts in enumerate(evaluation.confusion):
        photos, right = int(counts.sum()), int(counts[index])
        accuracy = round(right / photos, 4) if photos else ""
        rows.append([classes[index], names[index], photos, accuracy, *most_frequent.get(index, ["", 0])])
    return rows


def write_table(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file, and its folder where there is none. Raises RunError where that fails."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
            file.writelines(map(csv_line, rows))


def csv_line(cells: Iterable[object]) -> str:
    """Return one row of a CSV table, ended by a line feed. Cells with any kind of line break are quoted."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # it quotes only what its own line ending holds
    return UNENCODABLE.sub(lambda half: ascii(half[0])[1:-1], line.getvalue().removesuffix("\r\n")) + "\n"
