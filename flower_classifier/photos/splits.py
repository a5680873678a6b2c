"""The photos of a run: which are for training, which are held out or left out, and the class of each.

`load_splits` finds them below a data folder: layout.py says what folders may mean, label_tables.py what tables do.
left_out.py leaves out the photos that a table lists.
"""

from __future__ import annotations

import functools
import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flower_classifier.base.files import digest_of
from flower_classifier.base.messages import InputError, counted, first_few, note, photos_of, printable, spoken, warn
from flower_classifier.photos.copies import content_digests, same_bytes
from flower_classifier.photos.folders import (
    SPLIT_NAMES,
    ByClass,
    class_name_of,
    classes_in,
    find_classes,
    is_shard,
    split_of,
    visible_folders,
)
from flower_classifier.photos.hold_out import NONE, Photos, hold_out
from flower_classifier.photos.label_tables import Labels
from flower_classifier.photos.layout import layout_of, photos_by_split, split_folders
from flower_classifier.photos.name_labels import labels_hint
from flower_classifier.photos.tar_files import index_of, split_path, status_if_there

PhotoKey = tuple[str, int, int, int]  # path below the data folder, size in bytes, mtime and ctime in ns
CONTENTS_OF = 1000  # photos of a split whose contents are compared: a tenth of a second, however many there are
CONTENT_END = 65_536  # bytes at each file's end: all of a small photo, and rows of pixels of an uncompressed one


@dataclass(frozen=True)
class Split:
    """One part of the data: its photos in a fixed order and their labels.

    Photos in folders come class by class, names sorted; those in tar files as they lie there.
    """

    name: str  # train, valid or test
    root: Path  # the data folder
    photos: tuple[str, ...]  # paths below root, with "/": they identify a photo, wherever the folder lies
    labels: tuple[int, ...]  # indices into Splits.classes

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def spoken(self) -> str:
        """What the split is called in a sentence: "train" and "valid" are names of folders."""
        return spoken(self.name)

    def path(self, index: int) -> Path:
        """Return the file of a photo."""
        return self.root / self.photos[index]

    def take(self, indices: Sequence[int]) -> Split:
        """Return a split of these photos alone, in this order."""
        photos, labels = [self.photos[index] for index in indices], [self.labels[index] for index in indices]
        return replace(self, photos=tuple(photos), labels=tuple(labels))

    def keys(self) -> list[PhotoKey]:
        """Return what tells of each photo now that it is the same as before; a missing one is like none."""
        statuses = [status_if_there(self.path(index)) for index in range(len(self))]
        return [(photo, status.size, *status.changed) for photo, status in zip(self.photos, statuses, strict=True)]

    @functools.cached_property
    def sizes(self) -> list[int]:
        """How many bytes each photo has, when first asked for; -1 for a missing one."""
        return [size for _, size, *_ in self.keys()]

    def fingerprint(self) -> str:
        """Return a digest that tells whether photos were added, removed, renamed, resized or moved to another class.

        Of a photo that changes while the program runs, the size that was seen first counts.
        """
        return digest_of(zip(self.photos, self.labels, self.sizes, strict=True))

    def contents(self) -> dict[str, str]:
        """Map CONTENTS_OF photos, spread over the split, to a digest of each file's end, which tells what it shows.

        It is the same wherever the folder lies, and whenever it was copied there.
        """
        step = max(len(self) / CONTENTS_OF, 1)
        spread = [int(number * step) for number in range(min(len(self), CONTENTS_OF))]
        digests = content_digests([self.path(index) for index in spread], last=CONTENT_END)
        return {self.photos[index]: digest for index, digest in zip(spread, digests, strict=True)}


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

    def warn_of_copies(self) -> None:
        """Warn of photos in two splits, which makes an accuracy too good, and of photos in two classes."""
        copies = copies_among([PhotoRef(split, index) for split in self.parts for index in range(len(split))])
        for seen, split in itertools.combinations(self.parts, 2):
            groups = [group for group in copies if any(ref.split is seen for ref in group)]
            if shared := [ref.photo for group in groups for ref in group if ref.split is split]:
                are = f"is a {seen.spoken} photo" if len(shared) == 1 else f"are {seen.spoken} photos"
                warn(
                    f"{counted(len(shared), f'{split.spoken} photo')} of {len(split):,} {are} too "
                    f"({first_few(sorted(shared))}): the {split.spoken} accuracy will look better than it is"
                )
        if torn := [ref.photo for group in copies if len({ref.label for ref in group}) > 1 for ref in group]:
            names = first_few(sorted(torn))
            warn(f"{counted(len(torn), 'photo')} lie under more than one class ({names}): keep one copy of each")


@dataclass(frozen=True)
class Data:
    """A folder of labelled photos: what to learn from, what to choose by, and what to be judged on."""

    splits: Splits
    category_names: dict[str, str]  # class folder -> what people call it

    @property
    def classes(self) -> tuple[str, ...]:
        """The class folders, in the order of the labels."""
        return self.splits.classes

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The label of each class folder, as torchvision's ImageFolder has it."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def names(self) -> list[str]:
        """What people call the classes, in the same order."""
        return [self.category_names.get(name, name) for name in self.classes]

    @property
    def judged(self) -> Split:
        """The photos that tell what a model is worth: test photos, and without any the validation photos."""
        return self.splits.test or self.splits.valid

    def __str__(self) -> str:
        photos = ", ".join(f"{len(split):,} {split.spoken}" for split in self.splits.parts)
        sizes = Counter(self.splits.train.labels)
        by_size = sorted(range(len(self.classes)), key=lambda label: sizes[label])
        least, most = (f"{printable(self.names[label])} ({sizes[label]:,})" for label in (by_size[0], by_size[-1]))
        return (
            f"{counted(len(self.classes), 'class', 'classes')}: {first_few([printable(name) for name in self.names])}\n"
            f"photos: {photos}\n"
            f"training photos of a class: fewest of {least}, most of {most}"
        )


def load_splits(
    data_dir: Path,
    valid_split: float = 0.2,
    seed: int = 0,
    labels: Labels | None = None,
    groups: str | None = None,
    cache_dir: Path | None = None,
    test_split: float = 0.0,
    warns_of_copies: bool = True,
) -> Splits:
    """Find the photos below `data_dir`, by what `labels` say, or by its folders: layout.py has the layouts.

    Without validation photos a stratified, seeded `valid_split` of the training photos is held out; `groups` says what
    stays together then (hold_out.py), and near copies that were found are kept in `cache_dir`. With a `test_split` as
    many of the training photos are held out for a test too, where there are no test photos. Raises InputError if
    there is nothing to learn from, or if folders or tables contradict each other.
    """
    if not data_dir.is_dir():
        if data_dir.suffix.lower() == ".zip" and data_dir.is_file():
            how = f"python -m zipfile -e {shlex.quote(str(data_dir))} {shlex.quote(str(data_dir.with_suffix('')))}"
            raise InputError(f"{data_dir} is a zip file: unpack it by `{how}`, and give that folder")
        fault = "is not a folder" if data_dir.exists() else "does not exist"
        raise InputError(f"{data_dir} {fault}; give the folder that holds train/ and valid/, or one folder per class")
    class_folders: dict[str, str] = {}
    if labels:
        by_split = labels.by_split(data_dir, default_split="train")
    else:
        by_split, class_folders = photos_by_split(data_dir)
    train = by_split.get("train", {})
    check_number_of_classes(data_dir, tuple(train), labels)
    if "valid" in by_split:
        valid = by_split["valid"]
        if groups not in (None, NONE):
            warn("--groups says which photos are held out together, but none is: there are validation photos")
    else:
        warn_of_valid_beside(data_dir)
        held_from = Photos(data_dir, train, class_folders, str(labels or ""), cache_dir)
        train, valid = hold_out(held_from, valid_split, seed, groups)
    test = by_split.get("test", {})
    if test_split and test:
        warn("--test_split holds test photos out, but none are held out: there are test photos")
    elif test_split:  # drawn after those that validate, which stay the same without it
        held_from = Photos(data_dir, train, class_folders, str(labels or ""), cache_dir)
        already = 0.0 if "valid" in by_split else valid_split
        train, test = hold_out(held_from, test_split, seed, groups, "test", already)
    warn_of_cases(data_dir, tuple(train))
    splits = Splits(
        classes=tuple(train),
        train=make_split("train", data_dir, train, train),
        valid=make_split("valid", data_dir, train, valid),
        test=make_split("test", data_dir, train, test) if test else None,
    )
    if warns_of_copies:
        splits.warn_of_copies()
    return splits


def load_labelled(folder: Path, classes: tuple[str, ...], labels: Labels | None = None) -> Split:
    """Find the photos of a folder, or tar file, of one folder per class, or of a folder with `labels`.

    The split's labels are indices into `classes`.

    Of labels for several splits the test photos are taken, or the validation photos. Raises InputError if there are no
    photos, or for a class that is none of the classes.
    """
    name = SPLIT_NAMES.get((folder.stem if is_shard(folder) else folder.resolve().name).lower(), "")
    if labels:
        by_split = labels.by_split(folder, default_split=None)
        taken = next(split for split in ("test", "valid", "train") if split in by_split)
        by_class = by_split[taken]
        if len(by_split) > 1:
            name = taken
            note(f"{labels} has several splits: judging by its {photos_of(taken, sum(map(len, by_class.values())))}")
    elif is_shard(folder):
        by_class = classes_in(folder)
    else:
        if splits := split_folders(folder):
            names = first_few([f"{path.name}/" for path in splits.values()])
            raise InputError(f"{folder} holds {names}: name one of them")
        layout = layout_of(folder)
        if len(layout) > 1:
            raise InputError(f"{folder} holds several splits: name a folder of one")
        by_class = find_classes(folder, *layout["train"])
    as_in_classes = {class_name_of(name): name for name in classes}
    by_class = {as_in_classes.get(name, name): photos for name, photos in by_class.items()}
    if unknown := [name for name in by_class if name not in classes]:
        where = labels or folder
        raise InputError(f"{where}: no classes of the checkpoint: {first_few(unknown)}; it knows {first_few(classes)}")
    if not by_class:
        raise InputError(f"{folder} holds no class folders with photos")
    return make_split(name, folder, classes, by_class)


def make_split(name: str, root: Path, classes: Iterable[str], by_class: ByClass) -> Split:
    """Return a split with its photos in order. Raises InputError for a class that is not among `classes`."""
    index = {class_name: i for i, class_name in enumerate(classes)}
    if unknown := [class_name for class_name in by_class if class_name not in index]:
        by_lower = {class_name.lower(): class_name for class_name in index}
        alike = [by_lower[class_name.lower()] for class_name in unknown if class_name.lower() in by_lower]
        hint = f"rename them as there: {first_few(alike)}" if alike else "remove or rename them"
        raise InputError(
            f"{root}: {spoken(name)} photos of classes without training photos: {first_few(unknown)}; {hint}"
        )
    rows = [(photo, index[class_name]) for class_name, photos in by_class.items() for photo in photos]

    def position(row: tuple[str, int]) -> tuple[str, int]:
        if location := split_path(root / row[0]):
            tar, name = location
            return tar, index_of(tar).extent(name).start
        return "", 0

    rows.sort(key=position)  # as they lie in tar files, which a disk then reads in one go; in folders as they are
    return Split(name, root, photos=tuple(photo for photo, _ in rows), labels=tuple(label for _, label in rows))


def check_number_of_classes(data_dir: Path, classes: tuple[str, ...], labels: Labels | None) -> None:
    """Raise InputError unless there are two classes to tell apart."""
    if len(classes) >= 2:
        return
    if labels:
        content = f"only one class ({printable(classes[0])})" if classes else "no training photos"
        raise InputError(f"{labels}: {content}, and at least two classes are needed")
    content = f"only one class ({classes[0]})" if classes else "no class folders with photos"
    hint = labels_hint(data_dir, visible_folders(data_dir))
    raise InputError(
        f"{data_dir} holds {content}: a class is a folder of photos, and at least two are needed"
        f"{f'; or {hint}' if hint else ''}"
    )


def warn_of_valid_beside(data_dir: Path) -> None:
    """Warn where the folder of training photos alone was given, and validation photos lie beside it."""
    folder = data_dir.resolve()
    if split_of(folder.name) == "train":
        for beside in visible_folders(folder.parent):
            if split_of(beside.name) == "valid":
                above = data_dir.parent if data_dir.name == folder.name else folder.parent
                warn(f"{above / beside.name} lies beside {data_dir}, and is not used: give {above} to use it")


def warn_of_cases(data_dir: Path, classes: tuple[str, ...]) -> None:
    """Warn of classes that differ by upper and lower case, or by leading zeros, only: probably one class in two."""
    by_key: dict[str, list[str]] = {}
    for name in classes:
        by_key.setdefault(name.lstrip("0") if name.isdecimal() else name.lower(), []).append(name)
    if alike := [" and ".join(names) for names in by_key.values() if len(names) > 1]:
        by = "leading zeros" if all(pair[0].isdecimal() for pair in alike) else "case"
        warn(
            f"{data_dir}: classes that differ by {by} only are kept apart: {first_few(alike)}; is each pair one class?"
        )


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
        return self.split.path(self.index)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.split.sizes[self.index]


def copies_among(refs: Sequence[PhotoRef]) -> list[list[PhotoRef]]:
    """Return the groups of photos with the same bytes; one that is empty, or cannot be read, is like no other."""
    groups = same_bytes([ref.path for ref in refs], [ref.size for ref in refs])
    return [[refs[index] for index in group] for group in groups]
