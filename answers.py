"""How predictions are written to stdout: for people, or as JSON or CSV for programs. Each photo's as it comes.

    text    a table a photo, under a heading where there are several
    json    one array of objects {"path": …, "predictions": [{"class": …, "name": …, "probability": …}, …]}
    jsonl   the same objects, one a line
    csv     rows of path, rank (from 1), class, name, probability, behind a header

"class" is the folder at training, "name" what people call it. Photos that cannot be opened are not among them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from words import percent, printable

FORMATS = ("text", "json", "jsonl", "csv")
BYTE_ORDER_MARK = "\ufeff"  # by which spreadsheets know UTF-8
UNENCODABLE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # halves of a letter that stand for no byte of a file's name


@dataclass(frozen=True)
class Prediction:
    """One of the likeliest classes of a photo."""

    class_name: str
    name: str
    probability: float

    def plain(self) -> dict[str, object]:
        """Return it under the keys that programs read."""
        return {"class" if key == "class_name" else key: value for key, value in asdict(self).items()}


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
        else:
            for rank, row in enumerate(predictions, 1):
                sys.stdout.write(csv_line([photo, rank, row.class_name, row.name, row.probability]))
        self.written += 1
        sys.stdout.flush()

    def close(self) -> None:
        """Write what ends the output."""
        if self.form == "json":
            print("\n]" if self.written else "[]")


def csv_line(cells: Iterable[object]) -> str:
    """Return a row of a CSV table, ended by a line feed. Cells with any kind of line break are quoted."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # quotes what is in its own terminator, and no other
    return UNENCODABLE.sub(lambda half: ascii(half[0])[1:-1], line.getvalue().removesuffix("\r\n")) + "\n"


def print_table(predictions: list[Prediction], heading: Path | None) -> None:
    """Print names and probabilities, aligned, in the order given; one photo of several gets a heading."""
    if heading:
        print(heading)
    names = [printable(prediction.name) for prediction in predictions]
    indent, width = "  " if heading else "", max(map(len, names))
    for name, prediction in zip(names, predictions, strict=True):
        print(f"{indent}{name:{width}}  {percent(prediction.probability, digits=2):>8}")
