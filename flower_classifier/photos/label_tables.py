"""Labels that stand in tables, or in the photos' names, and not in the names of folders.

    train.py photos --labels labels.csv                     a column may say the split
    train.py photos --labels train.csv --valid_labels val.csv --test_labels test.csv
    train.py photos --labels stem                           cat.0.jpg, Abyssinian_1.jpg: see name_labels.py

Photos, their order and the classes are those that folders would give, so a run learns the same from either. tables.py
reads the files, label_columns.py tells their columns, photo_lookup.py finds the photos that they name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flower_classifier.base.messages import InputError, counted, first_few, note, photos_of, printable, warn
from flower_classifier.photos.folders import INVISIBLE, ByClass, PhotoSearch, class_name_of, is_photo, split_of
from flower_classifier.photos.label_columns import find_columns
from flower_classifier.photos.layout import class_folders, report_left_out
from flower_classifier.photos.name_labels import best_rule, explained
from flower_classifier.photos.photo_lookup import PhotoLookup
from flower_classifier.photos.tables import STEM, read_table

SPLIT_OF_OPTION = {"labels": "train", "valid_labels": "valid", "test_labels": "test"}  # where each split has a table
BETWEEN_LABELS = "|;,/ "
SINGLES_FROM = 10  # classes: if there are more, and half of them have one photo each, they are hardly classes


class Labelled(NamedTuple):
    """A photo and what is written of it."""

    photo: str  # path below the data folder
    label: str
    split: str  # train, valid or test; "" while it is open


@dataclass(frozen=True)
class Labels:
    """Where it is written which photo is of which class. The commands' options have the same names."""

    labels: Path  # a table, or STEM
    valid_labels: Path | None = None
    test_labels: Path | None = None
    columns: str | None = None  # path=…,label=…[,split=…], where they are not called as usual

    def __str__(self) -> str:
        return "the photos' names" if self.labels == STEM else str(self.labels)

    @property
    def names(self) -> str:
        """The tables in a sentence."""
        return " and ".join(map(str, self.tables.values()))

    @property
    def tables(self) -> dict[str, Path]:
        """The tables, by the options that name them."""
        tables = {option: getattr(self, option) for option in SPLIT_OF_OPTION}
        return {option: table for option, table in tables.items() if table and table != STEM}

    def by_split(self, data_dir: Path, default_split: str | None) -> dict[str, ByClass]:
        """Map train, valid and test, as far as there are any, to the photos of each class, in the order of folders.

        Photos are paths below `data_dir`. Where nothing says a split, it is train; folders of a `default_split` are
        preferred then. Raises InputError for tables that do not say plainly what is what.
        """
        photos = photos_below(data_dir, list(self.tables.values()))
        labelled = (
            self.in_tables(PhotoLookup(data_dir, photos, default_split), photos) if self.tables else in_names(photos)
        )
        by_split: dict[str, ByClass] = {}
        for photo, label, split in sorted(labelled, key=lambda row: walking_order(row.photo)):
            by_split.setdefault(split, {}).setdefault(label, []).append(photo)
        self.warn_of_odd_labels(by_split)
        return {split: dict(sorted(by_class.items())) for split, by_class in by_split.items()}

    def in_tables(self, lookup: PhotoLookup, photos: Sequence[str]) -> list[Labelled]:
        """Return the photos that the tables label, each once."""
        labelled: list[Labelled] = []
        listed: set[str] = set()
        for option, table in self.tables.items():
            split = SPLIT_OF_OPTION[option] if len(self.tables) > 1 else None
            rows = self.rows_of(table, option, lookup, split)
            listed |= {row.photo for row in rows}
            labelled += [row for row in rows if row.label]
        if len(self.tables) == 1 and not any(row.split for row in labelled):
            labelled = by_folders_of_splits(labelled, self.labels)
        if unlisted := [photo for photo in photos if photo not in listed]:
            left_out = f"{counted(len(unlisted), 'photo')} in no row of {self.names} left out ({first_few(unlisted)})"
            note(f"{lookup.data_dir}: {left_out}")
        return self.once([row if row.split else row._replace(split="train") for row in labelled])

    def rows_of(self, path: Path, option: str, lookup: PhotoLookup, split: str | None) -> list[Labelled]:
        """Return a table's photos, and say what is left out; those without a label have "".

        `split`: which one the table is of, where each split has a table. Raises InputError.
        """
        if not path.exists() and (beside := lookup.data_dir / path).is_file():
            raise InputError(f"{path} does not exist: did you mean {beside}?", option)
        table = read_table(path, option)
        columns = find_columns(table, self.columns, lookup, split)
        note(f"{path}: {columns}")
        rows = list(zip(columns.photos, columns.labels, columns.splits or [split or ""] * len(table.rows), strict=True))
        if missing := [cell for cell, (photo, *_) in zip(table.cells(columns.path), rows, strict=True) if not photo]:
            where = lookup.data_dir / columns.base
            warn(f"{path}: {counted(len(missing), 'row')} of no photo in {where} left out ({first_few(missing)})")
        labelled = [
            Labelled(photo, class_name_of(cell.strip()) if INVISIBLE.sub("", cell).strip() else "", named)
            for photo, cell, named in rows
            if photo
        ]
        if blank := sum(not row.label for row in labelled):
            warn(f"{path}: {counted(blank, 'photo')} without a label left out")
        if unsplit := [row.photo for row in labelled if columns.splits and not row.split]:
            warn(f"{path}: {counted(len(unsplit), 'photo')} of no split left out ({first_few(unsplit)})")
            labelled = [row if row.split else row._replace(label="") for row in labelled]
        if unprintable := next((row for row in labelled if printable(row.label) != row.label), None):
            raise table.error(f": the label of {printable(unprintable.photo)} holds a line break or the like")
        if not any(row.label for row in labelled):
            raise table.error(f" labels no photo in {lookup.data_dir}")
        return labelled

    def once(self, labelled: Sequence[Labelled]) -> list[Labelled]:
        """Return each photo once. Raises InputError for photos of two classes or splits."""
        by_photo: dict[str, list[Labelled]] = {}
        for row in labelled:
            by_photo.setdefault(row.photo, []).append(row)
        labels_of = {photo: sorted({row.label for row in rows}) for photo, rows in by_photo.items()}
        if torn := [photo for photo, labels in labels_of.items() if len(labels) > 1]:
            photo, labels = torn[0], labels_of[torn[0]]
            raise InputError(
                f"{self.names}: {counted(len(torn), 'photo')} with several labels ({printable(photo)}: "
                f"{first_few(labels)}): a photo is of one class, so keep one row of each"
            )
        if shared := [photo for photo, rows in by_photo.items() if len({row.split for row in rows}) > 1]:
            raise InputError(f"{self.names}: {counted(len(shared), 'photo')} in several splits ({first_few(shared)})")
        if repeated := len(labelled) - len(by_photo):
            note(f"{self.names}: {counted(repeated, 'row repeats another', 'rows repeat others')}")
        return [rows[0] for rows in by_photo.values()]

    def warn_of_odd_labels(self, by_split: dict[str, ByClass]) -> None:
        """Warn of classes that look like several at once, and of labels that are hardly classes."""
        classes = by_split.get("train", {})
        for mark in BETWEEN_LABELS:
            joined = [
                name for name in classes if mark in name and set(map(str.strip, name.split(mark))) <= set(classes)
            ]
            if joined:
                warn(f"{self}: labels that look like several at once are taken for classes: {first_few(joined)}")
        singles = sum(len(photos) == 1 for photos in classes.values())
        if len(classes) > SINGLES_FROM and 2 * singles > len(classes):
            warn(f"{self}: {singles:,} of {len(classes):,} labels are of one photo alone: are these classes?")


# --------------------------------------------------------------------------------------------------------- the photos


def photos_below(data_dir: Path, tables: Sequence[Path]) -> list[str]:
    """Return the paths of all photos below a data folder, but for what our commands wrote; say what was left out.

    `tables`: files of which nothing needs saying.
    """
    report_left_out(data_dir)
    search = PhotoSearch(data_dir)
    photos = [path for path in data_dir.iterdir() if is_photo(path)]
    for folder in class_folders(data_dir):
        photos += search.photos_below(folder)
    search.left_out -= Counter(table.suffix for table in tables if data_dir.absolute() in table.absolute().parents[1:])
    search.report()
    return [path.relative_to(data_dir).as_posix() for path in photos]


def walking_order(photo: str) -> list[tuple[bool, str]]:
    """Return what photos sort by as find_classes has them: in each folder its photos first, then its folders."""
    *folders, name = photo.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def split_of_folders(photo: str) -> str:
    """Return the split whose folder a photo lies in, by its name; "" for none."""
    return next(filter(None, map(split_of, photo.split("/")[:-1])), "")


def by_folders_of_splits(labelled: list[Labelled], table: Path) -> list[Labelled]:
    """Give photos the splits whose folders they lie in, if all lie in one, and some in that of training."""
    splits = [split_of_folders(row.photo) for row in labelled]
    counts = Counter(splits)
    if len(counts) < 2 or "" in counts or "train" not in counts:
        return labelled
    photos = ", ".join(photos_of(split, counts[split]) for split in ("train", "valid", "test") if counts[split])
    note(f"{table}: the photos' folders say their splits: {photos}")
    return [row._replace(split=split) for row, split in zip(labelled, splits, strict=True)]


def in_names(photos: Sequence[str]) -> list[Labelled]:
    """Return photos with the labels in their names. In folders of splits they are of these.

    Test photos whose names have no label are left out. Raises InputError where one rule does not explain all others.
    """
    by_split: dict[str, list[str]] = {}
    for photo in photos:
        by_split.setdefault(split_of_folders(photo), []).append(photo)
    loose = by_split.pop("", [])
    if "train" not in by_split:
        by_split = {**by_split, "train": loose} if loose else {"train": list(photos)}
    elif loose:
        warn(f"{counted(len(loose), 'photo')} beside the folders of splits left out ({first_few(loose)})")
    rule = best_rule(by_split["train"])
    labelled = []
    for split, group in by_split.items():
        labels = explained(group, rule)
        if unclear := [photo for photo, label in zip(group, labels, strict=True) if not label]:
            what = f"{len(unclear):,} of {photos_of(split, len(group))}"
            if split != "test":
                raise InputError(
                    f"stem: no class and number are the names of {what} ({first_few(unclear)}): names should be such "
                    "as cat.0.jpg or great_pyrenees_12.jpg; or give a table of labels",
                    "labels",
                )
            warn(f"{what} left out: their names have no label ({first_few(unclear)})")
        labelled += [Labelled(photo, label, split) for photo, label in zip(group, labels, strict=True) if label]
    if first := next((row for row in labelled if row.split == "train"), None):
        note(f"labels by the photos' names: {printable(first.photo)} is of class {printable(first.label)}")
    return labelled
