"""How predictions are written to stdout, photo by photo: as text for people, as JSON or CSV for programs.

    text    one table per photo, each under a heading where there are several photos
    json    one array of objects {"path": …, "predictions": [{"class": …, "name": …, "probability": …}, …]}
    jsonl   the same objects, one per line
    csv     rows of path, rank (from 1), class, name, probability, after a header

"class" is the class's folder at training, "name" what people call it. Photos that cannot be opened are left out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from flower_classifier.base.words import percent, printable
from flower_classifier.judging.prediction import Prediction
from flower_classifier.report.tables import csv_line

BYTE_ORDER_MARK = "\ufeff"  # by which spreadsheets recognise UTF-8


class Writer:
    """Writes each photo's predictions, likeliest first, in one of the formats; `close` ends the output."""

    def __init__(self, form: str, several: bool) -> None:
        self.form, self.several, self.written = form, several, 0
        if sys.stdout is None:  # closed: nobody reads
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 -- for as long as the process lives
        if form == "csv":
            if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
                sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
            sys.stdout.write(BYTE_ORDER_MARK + csv_line(["path", "rank", "class", "name", "probability"]))

    def write(self, photo: Path, predictions: list[Prediction]) -> None:
        """Write one photo's predictions, at once."""
        record = {"path": str(photo), "predictions": [prediction.plain() for prediction in predictions]}
        if self.form == "text":
            print_table(predictions, heading=photo if self.several else None)
        elif self.form == "jsonl":
            print(json.dumps(record))
        elif self.form == "json":
            print("," if self.written else "[", json.dumps(record), sep="\n" if self.written else "", end="")
        elif self.form == "csv":
            for rank, row in enumerate(predictions, 1):
                sys.stdout.write(csv_line([photo, rank, row.class_name, row.name, row.probability]))
        self.written += 1
        sys.stdout.flush()

    def close(self) -> None:
        """End the output: JSON's array is closed."""
        if self.form == "json":
            print("\n]" if self.written else "[]")


def print_table(predictions: list[Prediction], heading: Path | None) -> None:
    """Print names and probabilities, aligned, in the order given; below the path where there is a heading."""
    if heading:
        print(heading)
    names = [printable(prediction.name) for prediction in predictions]
    indent, width = "  " if heading else "", max(map(len, names))
    for name, prediction in zip(names, predictions, strict=True):
        print(f"{indent}{name:{width}}  {percent(prediction.probability, digits=2):>8}")
