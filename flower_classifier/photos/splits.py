"""The photos of a run: which are trained on, which are held out, and which class each of them belongs to.

`load_splits` finds them below a data folder; what lies in a folder is told in folders.py. `--without` leaves out those
that a table lists, such as the doctor's.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from flower_classifier.base.console import note, warn
from flower_classifier.base.errors import InputError
from flower_classifier.base.seeding import generator
from flower_classifier.base.text import counted, first_few, spoken
from flower_classifier.photos.duplicates import alike
from flower_classifier.photos.folders import (
    SPLIT_NAMES,
    check_shape,
    find_classes_anywhere,
    in_order_of_place,
    split_folders,
)
from flower_classifier.photos.tar_files import split_path, status_of

ByClass = dict[str, list[str]]  # class folder -> photos


@dataclass(frozen=True)
class Split:
    """One part of the data: its photos in a fixed order and their labels.

    Photos in folders come class by class, names sorted; those in tar files as they lie there.
    """

    name: str  # train, valid or test
    root: Path  # the data folder
    photos: tuple[str, ...]  # paths below root, with "/": what a photo is known by, wherever the folder lies
    labels: tuple[int, ...]  # indices into Splits.classes

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def spoken(self) -> str:
        """What the split is called in a sentence: "train" and "valid" are names of folders."""
        return spoken(self.name)

    def fingerprint(self) -> str:
        """Return a digest that changes when a photo is added, removed, renamed, resized or moved to another class."""
        sizes = [status_of(self.root / photo).size for photo in self.photos]
        rows = "\0".join(f"{row}" for row in zip(self.photos, self.labels, sizes, strict=True))
        return hashlib.blake2b(rows.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Splits:
    """The data of a run. Classes, and their order, come from the training photos alone."""

    classes: tuple[str, ...]
    train: Split
    valid: Split
    test: Split | None

    @property
    def parts(self) -> list[Split]:
        """The splits that there are."""
        return [split for split in (self.train, self.valid, self.test) if split]


def load_splits(data_dir: Path, valid_split: float = 0.2, seed: int = 0) -> Splits:
    """Find the photos below `data_dir`: `train/`, a validation folder and perhaps `test/`, or class folders alone.

    Each holds class folders or tar files. Without a validation folder a stratified, seeded `valid_split` of the
    training photos is held out. Raises InputError where there is nothing to learn from, or where the folders contradict
    each other.
    """
    if not data_dir.is_dir():
        what = "is not a folder" if data_dir.exists() else "does not exist"
        raise InputError(f"{data_dir} {what}; give the folder that holds train/ and valid/, or one folder per class")
    folders = split_folders(data_dir)
    if not folders:
        check_shape(data_dir)
    train = find_classes_anywhere(data_dir, folders.get("train", data_dir))
    check_number_of_classes(data_dir, tuple(train))
    photos = [photo for found in train.values() for photo in found]
    if not folders and all(photo.count("/") > 1 and not split_path(data_dir / photo) for photo in photos):
        where = f"lie in folders below {first_few(list(train))}"
        warn(f"{data_dir}: all photos {where}, which are taken for classes; is this a level too high?")
    if "valid" in folders:
        valid = find_classes_anywhere(data_dir, folders["valid"])
        if not valid:
            raise InputError(f"{folders['valid']} holds no class folders with photos: fill it, or remove it")
    else:
        train, valid = hold_out(train, valid_split, seed)
        if not valid:
            raise InputError(f"{data_dir}: no class has two photos, so there is none to hold out and validate on")
        number = counted(sum(map(len, valid.values())), "training photo")
        note(f"no validation folder in {data_dir}: held out {number} ({valid_split:.0%} of each class) as one")
    warn_of_cases(data_dir, tuple(train))
    test = find_classes_anywhere(data_dir, folders["test"]) if "test" in folders else {}
    if "test" in folders and not test:
        warn(f"{folders['test']} holds no class folders with photos: there will be no test result")
    splits = Splits(
        classes=tuple(train),
        train=make_split("train", data_dir, train, train),
        valid=make_split("valid", data_dir, train, valid),
        test=make_split("test", data_dir, train, test) if test else None,
    )
    warn_of_copies(splits)
    return splits


def load_labelled(folder: Path, classes: tuple[str, ...]) -> Split:
    """Find the photos of a folder that holds a folder for each class, in the order in which training has them.

    Raises InputError where there are none, or where a folder is none of the classes.
    """
    if inside := split_folders(folder):
        raise InputError(f"{folder} holds {first_few([f'{path.name}/' for path in inside.values()])}: name one of them")
    found = find_classes_anywhere(folder, folder)
    if unknown := [name for name in found if name not in classes]:
        raise InputError(f"{folder}: no classes of the checkpoint: {first_few(unknown)}; it knows {first_few(classes)}")
    if not found:
        raise InputError(f"{folder} holds no class folders with photos")
    return make_split(SPLIT_NAMES.get(folder.resolve().name.lower(), ""), folder, classes, found)


def hold_out(by_class: ByClass, share: float, seed: int) -> tuple[ByClass, ByClass]:
    """Split every class into what stays and a seeded `share` (at least one photo, if that leaves one to train on)."""
    kept, held = {}, {}
    for name, photos in by_class.items():
        number = min(max(1, round(share * len(photos))), len(photos) - 1)
        order = generator(seed, "hold out", name).permutation(len(photos))
        chosen = {photos[i] for i in order[:number]}
        kept[name] = [photo for photo in photos if photo not in chosen]
        held[name] = [photo for photo in photos if photo in chosen]
    return kept, {name: photos for name, photos in held.items() if photos}


def make_split(name: str, root: Path, classes: Iterable[str], by_class: ByClass) -> Split:
    """Lay a split's photos out in their order. Raises InputError for a class not among them."""
    index = {class_name: i for i, class_name in enumerate(classes)}
    if unknown := [class_name for class_name in by_class if class_name not in index]:
        raise InputError(
            f"{root}: {spoken(name)} photos of classes that train/ lacks: {first_few(unknown)}; remove or rename them"
        )
    by_class_rows = [(photo, index[class_name]) for class_name, photos in by_class.items() for photo in photos]
    rows = in_order_of_place(root, by_class_rows)
    return Split(name, root, photos=tuple(photo for photo, _ in rows), labels=tuple(label for _, label in rows))


def check_number_of_classes(data_dir: Path, classes: tuple[str, ...]) -> None:
    """Raise InputError unless there are two classes to tell apart."""
    if len(classes) >= 2:
        return
    found = f"only one class ({classes[0]})" if classes else "no class folders with photos"
    nested = [path.parent for path in sorted(data_dir.glob("*/train")) if path.is_dir()]
    hint = f"did you mean {nested[0]}?" if nested else "a class is a folder of photos, and at least two are needed"
    raise InputError(f"{data_dir} holds {found}: {hint}")


def warn_of_cases(data_dir: Path, classes: tuple[str, ...]) -> None:
    """Warn of classes that differ by upper and lower case only: probably one class in two folders."""
    by_lower: dict[str, list[str]] = {}
    for name in classes:
        by_lower.setdefault(name.lower(), []).append(name)
    if alike := [" and ".join(names) for names in by_lower.values() if len(names) > 1]:
        warn(
            f"{data_dir}: classes that differ by case only are kept apart: {first_few(alike)}; is each pair one class?"
        )


# --------------------------------------------------------------------------------------------------------------- copies


@dataclass(frozen=True)
class PhotoRef:
    """One photo of a split."""

    split: Split
    index: int  # in the split

    @property
    def photo(self) -> str:
        """The path below the data folder."""
        return self.split.photos[self.index]

    @property
    def label(self) -> int:
        """The class that the folder says."""
        return self.split.labels[self.index]

    @property
    def path(self) -> Path:
        """The file."""
        return self.split.root / self.photo


def warn_of_copies(splits: Splits) -> None:
    """Warn of photos that are in two splits, which makes an accuracy a lie, or of two classes."""
    copies = alike([PhotoRef(split, index) for split in splits.parts for index in range(len(split))])
    for split, other in ((splits.valid, splits.train), (splits.test, splits.train), (splits.test, splits.valid)):
        if split and (shared := [ref for group in copies for ref in in_both(group, split, other)]):
            are = f"is a {other.spoken} photo" if len(shared) == 1 else f"are {other.spoken} photos"
            warn(
                f"{counted(len(shared), f'{split.spoken} photo')} of {len(split):,} {are} too "
                f"({named(shared)}): the {split.spoken} accuracy will look better than it is"
            )
    if torn := [ref for group in copies if len({ref.label for ref in group}) > 1 for ref in group]:
        warn(f"{counted(len(torn), 'photo')} lie under more than one class ({named(torn)}): keep one copy of each")


def in_both(group: Iterable[PhotoRef], split: Split, other: Split) -> list[PhotoRef]:
    """Return the copies of a photo that are in a split, if it is in the other one too."""
    return [ref for ref in group if ref.split is split] if any(ref.split is other for ref in group) else []


def named(refs: Iterable[PhotoRef]) -> str:
    """Name the first few photos."""
    return first_few(sorted(ref.photo for ref in refs))


# ------------------------------------------------------------------------------------------------ without listed photos


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
