"""Tables that list photos, as spreadsheets, Kaggle, Hugging Face, FiftyOne and Ultralytics write them.

    path,label                {"file_name": "a.jpg", "label": "cat"}      one object a line (JSON Lines)
    train/a.jpg,cat           {"classes": ["cat"], "labels": {"a": 0}}    FiftyOne's labels.json

Cells are text as it stands in the file: 01 stays 01. Between the cells of CSV are commas, semicolons or tabs. Letters
are those of UTF-8, of UTF-16 with its mark, or of Windows-1252, in which Excel writes.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import json
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_classifier.base.files import input_file
from flower_classifier.base.messages import InputError, counted, first_few, printable, reason_of, warn

STEM = Path("stem")  # what --labels says for labels in the photos' names
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".xlsx")
DELIMITERS = ",;\t"
NO_DELIMITER = "\x1f"  # no text holds it: the lines of a table with one column are its cells
SEP_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # Excel's own first line
BINARY = {b"PK\x03\x04": "an Excel workbook", b"PAR1": "a Parquet file", b"\xd0\xcf\x11\xe0": "an old Excel workbook"}
UNUSABLE = re.compile("[\0\ud800-\udfff]")  # which JSON can write
JSON_LINES = (".jsonl", ".ndjson")
Json = dict[str, Any]  # Any: what a JSON object holds

# How columns with a photo's path are called, the surest first; "Image ID" and "image_id" are compared as "imageid"
PATH_COLUMNS = (
    *("path", "filepath", "imagepath", "imgpath", "file", "filename", "imagefile", "imagefilename", "imagename"),
    *("image", "img", "photo", "fname", "imageid", "imgid", "idcode", "id", "name"),
)


@dataclass(frozen=True)
class Table:
    """A table's cells, as text."""

    path: Path
    option: str  # that named the table
    columns: tuple[str, ...]  # as they are called in the file
    rows: list[list[str]]  # one cell for each column
    lines: list[int]  # the line of the file that each row ends on; of JSON that is no lines, the row's number

    def cells(self, column: str) -> list[str]:
        """Return the cells of a column."""
        index = self.columns.index(column)
        return [row[index] for row in self.rows]

    def error(self, fault: str) -> InputError:
        """Return an error that names the option and the table."""
        return InputError(f"{self.path}{fault}", self.option)

    def called(self, names: Sequence[str]) -> list[str]:
        """Return the columns that are called by one of these names, in the order of the names."""
        joined = {column: re.sub(r"[ _-]", "", column.casefold()) for column in self.columns}
        return [column for name in names for column in self.columns if joined[column] == name]


def as_written(photo: str) -> str:
    """Return a photo's name with undecodable bytes escaped, as write_table writes them, and letters as keyboards do."""
    return unicodedata.normalize("NFC", photo.encode("utf-8", "backslashreplace").decode())


def read_values(
    path: Path,
    option: str,
    root: Path,
    photos: Sequence[str],
    where: str,
    column: str,
    default: str | None = None,
) -> list[list[str]]:
    """Return what stands in a column of a table in each of the rows of each photo; [] for photos not listed.

    `photos` are paths below `root`. A table may also begin its paths with "./" or with that folder, absolute or as it
    was named, or divide them by backslashes. Warn of paths of no photo `where` photos are looked for; those of classes,
    which end in "/", are ignored. `default`: what counts where the table has no such column. Raises InputError, naming
    the option, for a file that cannot be read or lacks a column, and where none of its paths is a photo's.
    """
    table = read_table(path, option)
    columns = table.called(PATH_COLUMNS)
    if not columns:
        raise table.error(" has no column path: give a table such as doctor.csv")
    if called := table.called([column.replace("_", "")]):
        column = called[0]
    elif default is None:
        raise table.error(f" has no column {column}: give a table with the columns path and {column}")
    names = list(map(as_written, photos))
    present = set(names)
    values: dict[str, list[str]] = {}
    cells = table.cells(column) if called else [default or ""] * len(table.rows)
    for cell, value in zip(map(as_written, table.cells(columns[0])), cells, strict=True):
        if cell and not cell.endswith("/"):
            values.setdefault(cell if cell in present else below(cell, root), []).append(value)
    if values and not values.keys() & present:
        example = f"it has {first_few(sorted(values), 1)}, and there is {printable(min(present, default='no photo'))}"
        raise table.error(f" lists no photo {where}: {example}")
    if missing := sorted(values.keys() - present):
        warn(f"{path}: {counted(len(missing), 'path')} of no photo {where} ({first_few(missing)})")
    return [values.get(name, []) for name in names]


def below(cell: str, root: Path) -> str:
    """Return a path of a table as those of photos below `root` are written."""
    text = posixpath.normpath(cell.replace("\\", "/"))
    for folder in (root.absolute(), root.resolve(), root):
        start = as_written(folder.as_posix()) + "/"
        if text.startswith(start):
            return text.removeprefix(start)
    return text


def read_table(path: Path, option: str) -> Table:
    """Read a table. Raises InputError, naming the option, for a file that is none, or whose rows do not fit."""
    data = input_file(path, option)
    for mark, kind in BINARY.items():
        if data.startswith(mark):
            raise InputError(f"{path} is {kind}: save it as CSV", option)
    try:
        text = decoded(data, path)
        read = read_json if text.lstrip()[:1] in ("{", "[") else read_csv
        table = read(text, path, option)
    except TableError as error:
        raise InputError(f"{path}: {error}", option) from None
    except (ValueError, csv.Error, RecursionError, AttributeError, TypeError) as error:  # JSON may hold anything
        raise InputError(f"{path} is no table ({reason_of(error)}): give CSV or JSON Lines, in UTF-8", option) from None
    repeated = [column for column in table.columns if column and table.columns.count(column) > 1]
    if repeated:
        raise table.error(f" has two columns called {printable(repeated[0])}: rename one")
    return table


class TableError(ValueError):
    """What is wrong with a table, in words for people."""


def decoded(data: bytes, path: Path) -> str:
    """Return a file's text. Raises ValueError for what is no text."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
        sample = next(line for line in text.splitlines() if not line.isascii())
        warn(f"{path} is not in UTF-8: read as Windows-1252, as in {reason_of(sample)!r}; is that what it says?")
    if "\0" in text:
        raise ValueError("it is not text")
    return text


# ------------------------------------------------------------------------------------------------------------------ CSV


def read_csv(text: str, path: Path, option: str) -> Table:
    """Read a table whose first line names the columns. Raises TableError for rows longer than that, csv.Error."""
    before = len(text) - len(text.lstrip("\r\n"))
    sep = SEP_LINE.match(text, before)
    start = sep.end() if sep else before
    skipped = text.count("\n", 0, start)
    body = text[start:]

    def reader(delimiter: str) -> Any:  # noqa: ANN401 -- csv's reader has no public type
        return csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True)

    widths = {delimiter: len(next(reader(delimiter), [])) for delimiter in (sep[1] if sep else DELIMITERS)}
    delimiter = max(widths, key=widths.__getitem__)  # of equal ones the first
    cells = reader(delimiter if widths[delimiter] > 1 else NO_DELIMITER)
    columns = tuple(unicodedata.normalize("NFC", name.strip()) for name in next(cells, []))
    rows, lines = [], []
    for row in cells:
        if not any(row):
            continue
        if any(row[len(columns) :]):
            at = cells.line_num + skipped
            raise TableError(
                f"line {at} has {len(row)} cells, and the first line names {len(columns)} columns: a cell that holds "
                f"{delimiter!r} needs quotes around it"
            )
        rows.append([*row, *[""] * (len(columns) - len(row))][: len(columns)])
        lines.append(cells.line_num + skipped)
    return Table(path, option, columns, rows, lines)


# ----------------------------------------------------------------------------------------------------------------- JSON


def read_json(text: str, path: Path, option: str) -> Table:
    """Read one object a line, a list of objects, or an export of FiftyOne's or Ultralytics'. Raises ValueError."""
    written = [(position, line) for position, line in enumerate(text.split("\n"), 1) if line.strip()]
    is_lines = len(written) > 1 and all(line.strip()[0] == "{" and line.strip()[-1] == "}" for _, line in written)
    if is_lines or path.suffix.lower() in JSON_LINES:
        records = [(position, json_of(line, position)) for position, line in written]
    else:
        records = list(enumerate(records_in(json.loads(text, object_pairs_hook=reject_duplicate_keys)), 1))
    if not all(isinstance(record, dict) for _, record in records):
        raise TableError('its rows should be objects, such as {"file_name": "a.jpg", "label": "cat"}')
    if records and records[0][1].get("type") == "dataset" and "class_names" in records[0][1]:
        records = list(ultralytics_rows(records))
    flat = [flattened(record) for _, record in records]
    columns = tuple(dict.fromkeys(name for record in flat for name in record))
    rows = [[record.get(name, "") for name in columns] for record in flat]
    if any(UNUSABLE.search(cell) for row in rows for cell in row):
        raise ValueError("it holds letters that no text has")
    return Table(path, option, columns, rows, [position for position, _ in records])


def reject_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a mapping of a JSON object's pairs. Raises ValueError for a key with two values."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]!r} is given twice")
    return mapping


def json_of(line: str, position: int) -> Any:  # noqa: ANN401 -- what JSON holds
    """Parse one line. Raises TableError, naming it."""
    try:
        return json.loads(line, object_pairs_hook=reject_duplicate_keys)
    except ValueError as error:
        raise TableError(f"line {position} is not JSON: {reason_of(error)}") from None


def records_in(content: Any) -> list[Json]:  # noqa: ANN401 -- what JSON holds
    """Return the rows of a JSON file: of a list, of FiftyOne's samples.json, or of its labels.json.

    https://docs.voxel51.com/user_guide/export_datasets.html, FiftyOneDataset and FiftyOneImageClassificationDataset.
    """
    if isinstance(content, list):
        return content
    if isinstance(content.get("samples"), list):
        return content["samples"]
    labels, classes = content.get("labels"), content.get("classes")
    if not isinstance(labels, dict):
        raise TableError("holds no rows of photos: give a list of objects, or one object a line")
    return [{"path": path, "label": named(label, classes)} for path, label in labels.items()]


def ultralytics_rows(records: Sequence[tuple[int, Json]]) -> Iterator[tuple[int, Json]]:
    """Yield the photos of Ultralytics' NDJSON: the first line names the classes, each other one is of a photo.

    https://docs.ultralytics.com/datasets/classify/. Raises TableError for a data set of another task.
    """
    header = records[0][1]
    task, class_names = header.get("task"), header["class_names"]
    if task != "classify":
        raise TableError(f"is a data set of Ultralytics' task {task!r}, and not of classify: photos there have boxes")
    for position, record in records[1:]:
        labels = record.get("annotations", {}).get("classification", [])
        label = [named(label, class_names) for label in labels]
        yield position, {"path": record.get("file"), "label": label, "split": record.get("split")}


def named(label: object, classes: object) -> object:
    """Return the class that a number stands for, and any other label as it is. Raises TableError for no such class."""
    if isinstance(label, int) and not isinstance(label, bool) and classes:
        if isinstance(classes, dict) and str(label) in classes:
            return classes[str(label)]
        if isinstance(classes, list) and 0 <= label < len(classes):
            return classes[label]
        raise TableError(f"label {label} is the number of none of its classes")
    return label["label"] if isinstance(label, dict) and "label" in label else label


def flattened(record: Json) -> dict[str, str]:
    """Return an object's values as text; those of an object in it are called `outer.inner`."""
    flat: dict[str, str] = {}
    for key, value in record.items():
        name = unicodedata.normalize("NFC", key)
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": text_of(held) for inner, held in value.items() if not inner.startswith("_")}
        else:
            flat[name] = text_of(value)
    return flat


def text_of(value: object) -> str:
    """Return a JSON value as a cell has it: a list of one is that one."""
    if isinstance(value, list) and len(value) < 2:
        return text_of(value[0]) if value else ""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


# -------------------------------------------------------------------------------------------------------- named columns


ROLES = ("path", "label", "split")
SHOWN = 12  # columns in a message


@functools.cache
def parse_columns(text: str) -> dict[str, str]:
    """Return the columns that `path=…,label=…[,split=…]` names, by what they hold. Raises InputError."""
    columns = {}
    for item in text.split(","):
        role, equals, name = (word.strip() for word in item.partition("="))
        if role not in ROLES or not equals or not name or role in columns:
            raise InputError(f"should be such as path=image,label=species,split=set, not {reason_of(text)}", "columns")
        columns[role] = name
    return columns


def check_columns(labels: Path | None, columns: str | None) -> None:
    """Raise InputError for --columns that name none, or that belong to no table."""
    if columns is not None:
        parse_columns(columns)
        if not labels or labels == STEM:
            raise InputError("are those of the table that --labels names", "columns")


def named_column(table: Table, name: str) -> str:
    """Return the column that a person names, in capitals or not. Raises InputError for none."""
    columns = [column for column in table.columns if column == name]
    columns += [column for column in table.columns if column.casefold() == name.casefold()]
    if not columns:
        raise InputError(f"names {name}, which {table.path} lacks: it has {first_few(table.columns, SHOWN)}", "columns")
    return columns[0]
