"""How predictions are written to stdout, photo by photo: as text for people, as JSON or CSV for programs.

    text    one table per photo, each under a heading where there are several photos
    json    one array of objects {"path": …, "predictions": [{"class": …, "name": …, "probability": …}, …]}
    jsonl   the same objects, one per line
    csv     rows of path, rank (from 1), class, name, probability, after a header

"class" is the class's folder at training, "name" what people call it. Where the checkpoint can tell strangers, JSON's
objects and CSV's rows also have "known" and "p_known". Where a least probability is asked for, they have "sure". Where
sets are, JSON's objects have "set", the classes in it, and CSV's rows "in_set". Where neighbours are, JSON's objects
have "neighbours", objects {"path": …, "class": …, "name": …, "similarity": …}. A photo that cannot be opened is
{"path": …, "error": …} in its place; text and CSV leave it out. Programs get names and paths to the letter; people get
them printable.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from flower_classifier.base.errors import InputError
from flower_classifier.base.signals import signals_held
from flower_classifier.base.text import first_few, percent, printable
from flower_classifier.config.predict_options import QuestionConfig
from flower_classifier.predicting.prediction import Verdict
from flower_classifier.report.report_files import csv_line

# Bytes that a pipe takes whole or not at all (POSIX, PIPE_BUF): under PYTHONUNBUFFERED Python loses the rest of a write
# that a signal interrupts. JSON is ASCII here
PIECE = 512
BYTE_ORDER_MARK = "\ufeff"  # by which spreadsheets recognise UTF-8
MOST_NAMED = 10  # classes of a set that people are told by name
MOST_ALIGNED = 40  # letters of a name up to which the numbers of all photos stand below one another


class AnswerWriter:
    """Writes each photo's predictions in one of the formats; a context manager that ends the output whatever happens.

    `names`: what people call the classes; to align the answers to `several` photos.
    """

    def __init__(self, config: QuestionConfig, several: bool, names: Sequence[str] = ()) -> None:
        self.format, self.level, self.several, self.written = config.format, config.sets, several, 0
        # The columns of CSV that are asked for beside the usual ones
        self.further = [] if config.stranger_rate == 0 else ["known", "p_known"]
        self.further += [*(["sure"] if config.min_probability else []), *(["in_set"] if config.sets else [])]
        self.classes = len(names)
        self.width = min(max((len(printable(name)) for name in names), default=0), MOST_ALIGNED) if several else 0
        if sys.stdout is None:  # closed: nobody reads
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 -- for as long as the process lives

    def __enter__(self) -> AnswerWriter:
        if self.format == "csv":
            if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
                sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
            header = ["path", "rank", "class", "name", "probability", *self.further]
            sys.stdout.write(BYTE_ORDER_MARK + csv_line(header))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the output: JSON's array is closed, also after an error or Ctrl-C."""
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():  # the error is what is told
            if self.format == "json":
                sys.stdout.write("\n]\n" if self.written else "[]\n")
            sys.stdout.flush()

    def write(self, photo: Path, verdict: Verdict) -> None:
        """Write one photo's predictions, at once."""
        if self.format == "text":
            self.write_table(photo, verdict)
        elif self.format == "csv":
            known_cells = [yes_or_no(verdict.known), verdict.p_known] if "known" in self.further else []
            sure = [] if verdict.sure is None else [yes_or_no(verdict.sure)]
            for rank, row in enumerate(verdict.predictions, 1):  # a set is made of the first ranks
                in_set = [] if verdict.members is None else [yes_or_no(rank <= len(verdict.members))]
                cells = [photo, rank, row.class_name, row.name, row.probability]
                sys.stdout.write(csv_line([*cells, *known_cells, *sure, *in_set]))
        else:
            self.write_object(json_of(photo, verdict))
        sys.stdout.flush()

    def write_error(self, photo: Path, error: InputError) -> None:
        """Write, where the format has a place for it, that a photo cannot be opened."""
        if self.format in ("json", "jsonl"):
            self.write_object(json_of(photo, error))
            sys.stdout.flush()

    def write_object(self, text: str) -> None:
        """Write an object on a line of its own; in an array, after its separator from the one before."""
        before = ",\n" if self.written else "[\n"
        text = f"{text}\n" if self.format == "jsonl" else before + text
        with signals_held():  # a reader that is slow lets a write wait in the middle of an object
            for start in range(0, len(text), PIECE):
                sys.stdout.write(text[start : start + PIECE])
                sys.stdout.flush()
            self.written += 1

    def write_table(self, photo: Path, verdict: Verdict) -> None:
        """Print names and probabilities, aligned, likeliest first; where there are several photos below the path."""
        indent = ""
        if self.several:
            print(printable(str(photo)))
            indent = "  "
        if verdict.p_known is not None and verdict.known is False:
            print(f"{indent}{none_of(self.classes)} (stranger score {1 - verdict.p_known:.3f})")
        if verdict.sure is False:
            print(f"{indent}not sure: no class reaches {100 * verdict.min_probability:g}%")
        names = [printable(prediction.name) for prediction in verdict.predictions]
        width = self.width or max(map(len, names))
        for name, prediction in zip(names, verdict.predictions, strict=True):
            print(f"{indent}{name:{width}}  {percent(prediction.probability, digits=2):>8}")
        if verdict.members is not None:
            print(f"{indent}{self.level:g}% set: {first_few([member.name for member in verdict.members], MOST_NAMED)}")
        if verdict.neighbours:
            print(f"{indent}training photos most like it:")
            names = [printable(neighbour.name) for neighbour in verdict.neighbours]
            width = self.width or max(map(len, names))
            for name, neighbour in zip(names, verdict.neighbours, strict=True):
                print(f"{indent}  {neighbour.similarity:5.2f}  {name:{width}}  {printable(neighbour.photo)}")


def json_of(photo: Path, outcome: Verdict | InputError) -> str:
    """Return what programs read of a photo: what is predicted of it, or why it cannot be opened."""
    facts = {"error": str(outcome)} if isinstance(outcome, InputError) else outcome.plain()
    return json.dumps({"path": str(photo), **facts})


def yes_or_no(value: bool | None) -> str:
    """Return how CSV writes a truth value: as JSON does, or as nothing where it is not known."""
    return "" if value is None else str(value).lower()


def none_of(classes: int) -> str:
    """Return the clause for a photo that is a stranger to so many classes."""
    return f"not one of the {classes:,} classes it was trained on"
