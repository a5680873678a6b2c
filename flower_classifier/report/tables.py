"""Tables as CSV, for spreadsheets and programs.

Files begin with a byte-order mark, by which spreadsheets recognise UTF-8.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flower_classifier.base.files import write_whole
from flower_classifier.report.report_files import writing

if TYPE_CHECKING:
    from flower_classifier.judging.evaluation import Evaluation

Table = list[list[object]]  # header first
Record = Mapping[str, Any]  # a row by its columns; Any: each has its own type
UNENCODABLE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte of a file's name


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


def all_mistakes(
    evaluation: Evaluation, photos: Sequence[Path], classes: Sequence[str], names: Sequence[str]
) -> Iterator[list[object]]:
    """Yield the rows of mistakes.csv, header first: the photos (N,) that are predicted wrong, most confident first."""
    yield ["path", "true_class", "true_name", "predicted_class", "predicted_name", "probability"]
    labels, predicted = evaluation.labels.tolist(), evaluation.predicted.tolist()
    confidence = evaluation.confidence.tolist()
    for index in evaluation.mistakes:
        true, wrong = labels[index], predicted[index]
        yield [photos[index], classes[true], names[true], classes[wrong], names[wrong], confidence[index]]


def confusion_matrix(evaluation: Evaluation, classes: Sequence[str]) -> Iterator[list[object]]:
    """Yield the rows of confusion_matrix.csv, header first: photos by true class (row) and predicted one (column)."""
    yield ["class", *classes]
    for name, counts in zip(classes, evaluation.confusion.tolist(), strict=True):
        yield [name, *counts]


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file as `write_table` writes it; return its rows by column. What cannot be read has none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []


def write_table(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file whole or not at all, and its folder where there is none. Raises RunError where that fails."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, codecs.BOM_UTF8 + encoded("".join(map(csv_line, rows))))


def append_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Add rows to a CSV file. Raises RunError where that fails."""
    with writing(path), path.open("ab") as file:
        file.writelines(encoded(csv_line(cells)) for cells in rows)


def encoded(text: str) -> bytes:
    """Return a text in UTF-8, with what UTF-8 cannot hold escaped."""
    return text.encode("utf-8", "backslashreplace")


def csv_line(cells: Iterable[object]) -> str:
    """Return one row of a CSV table, ended by a line feed. Cells with any kind of line break are quoted."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # it quotes only what its own line ending holds
    return UNENCODABLE.sub(lambda half: ascii(half[0])[1:-1], line.getvalue().removesuffix("\r\n")) + "\n"
