"""Photos that are listed in a table, such as the doctor's, and splits without them: `--without`."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import note, warn
from flower_classifier.base.words import counted, first_few
from flower_classifier.photos.splits import Split, Splits

COLUMN = "path"


def without_listed(splits: Splits, table: Path) -> Splits:
    """Return the splits less the photos that a table lists, by their paths below the data folder.

    Raises InputError for a table that cannot be read, and where nothing would be left of a class or a split.
    """
    listed = read_listed(table)
    parts = [part for part in (splits.train, splits.valid, splits.test) if part]
    present = {as_written(photo) for part in parts for photo in part.photos}
    if missing := sorted(listed - present):
        warn(f"{table}: {counted(len(missing), 'path')} of no photo in {splits.train.root} ({first_few(missing)})")
    train, valid, *test = (less(part, listed) for part in parts)
    left = set(train.labels)
    if lost := [name for label, name in enumerate(splits.classes) if label not in left]:
        raise InputError(f"{table} lists all training photos of {first_few(lost)}: leave some, or move the class away")
    if not len(valid):
        raise InputError(f"{table} lists all validation photos: leave some")
    if test and not len(test[0]):
        warn(f"{table} lists all test photos: there will be no test result")
    note(f"going on without {counted(len(listed & present), 'photo')} of {len(present):,}, listed in {table}")
    return replace(splits, train=train, valid=valid, test=test[0] if test and len(test[0]) else None)


def read_listed(table: Path) -> set[str]:
    """Return what a table has in its column `path`; of classes, whose paths end in "/", nothing is left out.

    Raises InputError for a file that cannot be read or has no such column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if COLUMN not in (reader.fieldnames or ()):
                raise InputError(f"{table} has no column {COLUMN}: give a table such as doctor.csv", "without")
            paths = {row[COLUMN] for row in reader}
    except OSError as error:
        raise InputError(f"cannot read {table}: {error.strerror}", "without") from None
    except (ValueError, csv.Error):
        raise InputError(f"{table} is no table: give a CSV file in UTF-8 with a column {COLUMN}", "without") from None
    return {path for path in paths if path and not path.endswith("/")}


def less(split: Split, listed: Collection[str]) -> Split:
    """Return a split less some of its photos."""
    kept = [index for index, photo in enumerate(split.photos) if as_written(photo) not in listed]
    photos, labels = tuple(split.photos[index] for index in kept), tuple(split.labels[index] for index in kept)
    return replace(split, photos=photos, labels=labels)


def as_written(photo: str) -> str:
    """Return a photo's name as a table in UTF-8 has it: bytes that are no letters are spelled out."""
    return photo.encode("utf-8", "backslashreplace").decode()
