"""Which columns of a table hold the photos' paths, their labels and their splits.

They go by the usual names, or by those that --columns gives; where names leave it open, by what lies in the folder of
photos. Labels may also stand in a column of 0 and 1 for each class, as on Kaggle. What stays unclear is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from flower_classifier.base.messages import InputError, counted, first_few, printable, reason_of, warn
from flower_classifier.photos.folders import has_photo_suffix, split_of
from flower_classifier.photos.photo_lookup import Match, PhotoLookup
from flower_classifier.photos.tables import PATH_COLUMNS, SHOWN, Table, as_written, named_column, parse_columns

LABEL_COLUMNS = (
    *("label", "labels", "labelname", "class", "classes", "classname", "category", "categoryname", "species", "target"),
    "groundtruth.label",
)
SPLIT_COLUMNS = ("split", "set", "subset", "fold", "tags")
ROW_NUMBERS = ("", "unnamed: 0")  # what pandas calls them
NO_HEADER = ": its first line is to name the columns, such as path,label"
FLAGS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}


@dataclass(frozen=True)
class LabelColumns:
    """What a table says, row by row."""

    path: str  # the column
    base: str  # the folder, below the data folder, that paths are taken from
    photos: list[str | None]  # below the data folder
    label: str  # the column, or what to call several
    labels: list[str]  # as written
    split: str | None  # the column
    splits: list[str] | None  # train, valid, test, or "" where the cell is empty

    def __str__(self) -> str:
        named = [f"photos by column {self.path}", f"labels by {self.label}"]
        named += [f"splits by column {self.split}"] if self.split else []
        where = f"; photos are in {self.base}/" if self.base else ""
        return f"{printable(', '.join(named))}{printable(where)}"


def find_columns(table: Table, columns: str | None, lookup: PhotoLookup, split: str | None) -> LabelColumns:
    """Return what the table says. Raises InputError where that is not clear.

    `columns`: what --columns says. `split`: which one the table is of, if it is of one.
    """
    if not table.rows:
        raise table.error(" has no rows")
    if any(map(has_photo_suffix, table.columns)):
        raise table.error(NO_HEADER)
    given = {role: named_column(table, name) for role, name in parse_columns(columns).items()} if columns else {}
    split_column = find_split(table, given, split)
    splits = [split_of(cell) or "" for cell in table.cells(split_column)] if split_column else None
    taken = [column for column in (split_column, *given.values()) if column]
    path, match = find_paths(table, given.get("path"), taken, lookup, splits or split)
    is_named = "path" in given or path in table.called(PATH_COLUMNS)
    if not is_named and as_written(path).casefold().rpartition("/")[2] in lookup.by_name:
        raise table.error(NO_HEADER)  # which is a photo's row: it would be left out
    label, labels = find_labels(table, given.get("label"), [path, *taken])
    for line, cell in zip(table.lines, labels, strict=True):
        if cell[:1] + cell[-1:] in ("[]", "{}"):
            raise table.error(f", line {line}: {reason_of(cell)} is no single label")
    return LabelColumns(path, match.base, match.photos, label, labels, split_column, splits)


def find_split(table: Table, given: dict[str, str], split: str | None) -> str | None:
    """Return the column that says the split; None for none. Raises InputError for what is no split's name."""
    columns = [column for column in table.called(SPLIT_COLUMNS) if column not in given.values()]
    usable = []
    for column in [given["split"]] if "split" in given else columns:
        cells = [cell.strip() for cell in table.cells(column)]
        named = dict.fromkeys(cell for cell in cells if cell)
        odd = [cell for cell in named if not split_of(cell)]
        if odd and ("split" in given or len(odd) < len(named)):
            line = table.lines[cells.index(odd[0])]
            what = f"{printable(odd[0])} in column {column} is none of train, valid and test"
            raise table.error(f", line {line}: {what}")
        if odd:
            warn(f"{table.path}: column {column} is not used, as it holds {first_few(odd)}, and not train, valid, test")
        elif named:
            usable.append(column)
            if others := [cell for cell in named if split and split_of(cell) != split]:
                raise table.error(f" is the table of one split, and column {column} has {first_few(others)}")
    if len(usable) > 1:
        raise table.error(f": {first_few(usable)} all say splits: name one, --columns split={usable[0]}")
    return usable[0] if usable else None


def find_paths(
    table: Table,
    given: str | None,
    taken: Sequence[str],
    lookup: PhotoLookup,
    split: list[str] | str | None,
) -> tuple[str, Match]:
    """Return the column that names the most photos, and these. Raises InputError where none does.

    `split`: of each row, or of the whole table; None where it is open.
    """
    columns = [given] if given else [column for column in table.called(PATH_COLUMNS) if column not in taken]
    unnamed = [column for column in table.columns if column not in (*taken, *table.called(LABEL_COLUMNS))]
    matches: dict[str, Match] = {}
    errors: list[InputError] = []
    for column in columns or unnamed:
        try:
            matches[column] = lookup.match_by_split(table.cells(column), table.path, split)
        except InputError as error:
            errors.append(error)
    # The surest by its name that is right for most rows; ids may be right for a few by chance
    likely = [column for column, match in matches.items() if 2 * match.count >= len(table.rows)]
    best = likely[0] if likely else max(matches, key=lambda column: matches[column].count, default="")
    if best and matches[best].count:
        return best, matches[best]
    if columns and errors:
        raise errors[0]
    if columns:
        cells = [cell for cell in table.cells(columns[0]) if cell]
        outside = " (the folder must hold all photos)" if any(map(os.path.isabs, cells[:1])) else ""
        where = f"a photo in {lookup.data_dir}{outside}: {first_few(cells)}"
        raise table.error(f": nothing in column {columns[0]} is {where}; --columns path=… names another column")
    raise table.error(f" has no column of paths: {advice(table)}")


def find_labels(table: Table, given: str | None, taken: Sequence[str]) -> tuple[str, list[str]]:
    """Return what to call the labels' column, and the label of each row. Raises InputError where it is not clear."""
    named = [given] if given else [column for column in table.called(LABEL_COLUMNS) if column not in taken]
    used = [*taken, *table.called(SPLIT_COLUMNS), *(name for name in table.columns if name.casefold() in ROW_NUMBERS)]
    others = [column for column in table.columns if column not in used]
    if not named and len(others) > 1 and all(FLAGS.keys() >= set(table.cells(column)) for column in others):
        return f"columns of 0 and 1 ({first_few(others)})", from_flags(table, others)
    if not named:
        named = others if len(others) == 1 else [column for column in others if column.endswith(".label")]
    if len(named) > 1:
        raise table.error(f": {first_few(named)} may all be the labels: name one, --columns label={named[0]}")
    if not named:
        raise table.error(f" has no column of labels by its name: {advice(table)}")
    return f"column {named[0]}", table.cells(named[0])


def from_flags(table: Table, columns: Sequence[str]) -> list[str]:
    """Return the label of each row of columns with 0 and 1. Raises InputError for rows with no 1, or several."""
    marked = [
        [column for column, flag in zip(columns, flags, strict=True) if FLAGS[flag]]
        for flags in zip(*map(table.cells, columns), strict=True)
    ]
    if unclear := [line for line, labels in zip(table.lines, marked, strict=True) if len(labels) != 1]:
        rows = f"{counted(len(unclear), 'row')} without exactly one 1 (line {unclear[0]})"
        raise table.error(f" has columns of 0 and 1 ({first_few(columns)}), and {rows}: a photo is of one class")
    return [labels[0] for labels in marked]


def advice(table: Table) -> str:
    """Say how to name columns."""
    return f"name it, --columns path=…,label=…; it has {first_few(table.columns, SHOWN)}"
