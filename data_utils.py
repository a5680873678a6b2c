"""The user's folders: which photos a run has, which classes they belong to, and what people call those.

`load_splits` finds the photos of a run; what happens to a single photo is told in images.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from errors import InputError
from images import photo_endings
from messages import note, warn
from randomness import generator
from words import counted, first_few, nearest

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Left behind by macOS's zip and by Synology; hidden folders go by their dot
NOT_CLASSES = ("__MACOSX", "@eaDir")


# ---------------------------------------------------------------------------------------------- folders and classes


@dataclass(frozen=True)
class Split:
    """One part of the data: its photos in a fixed order (class by class, names sorted) and their labels."""

    name: str  # train, valid or test
    root: Path  # the data folder
    photos: tuple[str, ...]  # paths below root, with "/": what a photo is known by, wherever the folder lies
    labels: tuple[int, ...]  # indices into Splits.classes

    def __len__(self) -> int:
        return len(self.photos)

    def fingerprint(self) -> str:
        """Return a digest that changes when a photo is added, removed, renamed, resized or moved to another class."""
        sizes = [(self.root / photo).stat().st_size for photo in self.photos]
        rows = "\0".join(f"{row}" for row in zip(self.photos, self.labels, sizes, strict=True))
        return hashlib.blake2b(rows.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Splits:
    """The data of a run. Classes, and their order, come from the training photos alone."""

    classes: tuple[str, ...]
    train: Split
    valid: Split
    test: Split | None


def load_splits(data_dir: Path, valid_split: float = 0.2, seed: int = 0) -> Splits:
    """Find the photos below `data_dir`: `train/`, a validation folder and perhaps `test/`, or class folders alone.

    Without a validation folder a stratified, seeded `valid_split` of the training photos is held out.
    Raises InputError where there is nothing to learn from, or where the folders contradict each other.
    """
    if not data_dir.is_dir():
        what = "is not a folder" if data_dir.exists() else "does not exist"
        own = "give the folder that holds train/ and valid/, or a folder a class"
        raise InputError(f"{data_dir} {what}; {own}, or let --download fetch photos of 102 species of flowers")
    folders = split_folders(data_dir)
    train = find_classes(data_dir, folders.get("train", data_dir))
    if not folders and all(photo.count("/") > 1 for photos in train.values() for photo in photos):
        where = f"lie in folders below {first_few(list(train))}"
        warn(f"{data_dir}: all photos {where}, which are taken for classes; is this a level too high?")
    check_number_of_classes(data_dir, tuple(train))
    if "valid" in folders:
        valid = find_classes(data_dir, folders["valid"])
        if not valid:
            raise InputError(f"{folders['valid']} holds no class folders with photos: fill it, or remove it")
    else:
        train, valid = hold_out(train, valid_split, seed)
        if not valid:
            raise InputError(f"{data_dir}: no class has two photos, so there is none to hold out and validate on")
        number = counted(sum(map(len, valid.values())), "training photo")
        note(f"no validation folder in {data_dir}: held out {number} ({valid_split:.0%} of each class) as one")
    warn_of_cases(data_dir, tuple(train))
    test = find_classes(data_dir, folders["test"]) if "test" in folders else {}
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
    found = find_classes(folder, folder)
    if strangers := [name for name in found if name not in classes]:
        raise InputError(
            f"{folder}: no classes of the checkpoint: {first_few(strangers)}; it knows {first_few(classes)}"
        )
    if not found:
        raise InputError(f"{folder} holds no class folders with photos")
    return make_split(SPLIT_NAMES.get(folder.resolve().name.lower(), ""), folder, classes, found)


def split_folders(data_dir: Path) -> dict[str, Path]:
    """Map train, valid and test to their folders, or return {} where class folders lie in `data_dir` itself.

    A split folder holds folders and a class folder holds photos: so a class may well be called "train".
    """
    found: dict[str, Path] = {}
    for folder in visible_folders(data_dir):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None or (not visible_folders(folder) and any(is_photo(file) for file in folder.iterdir())):
            continue
        if split in found:
            raise InputError(f"{data_dir} holds both {found[split].name}/ and {folder.name}/; keep one of them")
        found[split] = folder
    if found and "train" not in found:
        raise InputError(f"{data_dir} holds {first_few([f.name + '/' for f in found.values()])} but no train/")
    return found


def find_classes(data_dir: Path, folder: Path) -> dict[str, list[str]]:
    """Map each class folder of `folder` that holds photos to their paths below `data_dir`, everything sorted.

    Names sort as strings ("1", "10", "2"), as torchvision's ImageFolder sorts them.
    """
    photos = {path.name: find_photos(path) for path in visible_folders(folder)}
    if loose := sum(is_photo(path) for path in folder.iterdir()):
        warn(f"{folder}: {counted(loose, 'photo')} beside the class folders left out, being of no class")
    if empty := [name for name, found in photos.items() if not found]:
        warn(f"{folder}: {counted(len(empty), 'folder')} without photos left out: {first_few(empty)}")
    return {name: [f.relative_to(data_dir).as_posix() for f in found] for name, found in photos.items() if found}


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted by name as a string, without hidden ones and other tools' litter."""
    try:
        return sorted((path for path in folder.iterdir() if path.is_dir() and not is_litter(path.name)), key=by_name)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from None


def find_photos(folder: Path) -> list[Path]:
    """Return every photo below `folder`, sorted; a loop of symbolic links is walked once."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse_unreadable):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_litter(name))
        found += [path for path in (Path(root, name) for name in sorted(files)) if is_photo(path)]
    return found


def refuse_unreadable(error: OSError) -> NoReturn:
    """Stop where os.walk would silently skip a folder."""
    raise InputError(f"cannot read {error.filename}: {error.strerror}")


def is_litter(name: str) -> bool:
    """Say whether a folder is no part of the data, whatever lies in it."""
    return name.startswith(".") or name in NOT_CLASSES


def is_photo(path: Path) -> bool:
    """Say whether a file is taken for a photo: a regular file, not hidden, with an image's ending."""
    return not path.name.startswith(".") and path.suffix.lower() in photo_endings() and path.is_file()


def by_name(path: Path) -> str:
    """Sort key: the name as a string, whatever the platform thinks of upper and lower case."""
    return path.name


def hold_out(by_class: dict[str, list[str]], share: float, seed: int) -> tuple[dict, dict]:
    """Split every class into what stays and a seeded `share` (at least one photo, if that leaves one to train on)."""
    kept, held = {}, {}
    for name, photos in by_class.items():
        number = min(max(1, round(share * len(photos))), len(photos) - 1)
        order = generator(seed, "hold out", name).permutation(len(photos))
        chosen = {photos[i] for i in order[:number]}
        kept[name] = [photo for photo in photos if photo not in chosen]
        held[name] = [photo for photo in photos if photo in chosen]
    return kept, {name: photos for name, photos in held.items() if photos}


def make_split(name: str, root: Path, classes: Iterable[str], by_class: dict[str, list[str]]) -> Split:
    """Lay a split's photos out in a row, class by class. Raises InputError for a class not among them."""
    index = {class_name: i for i, class_name in enumerate(classes)}
    if strangers := [class_name for class_name in by_class if class_name not in index]:
        raise InputError(
            f"{root}: {name} photos of classes that train/ lacks: {first_few(strangers)}; remove or rename them"
        )
    rows = [(photo, index[class_name]) for class_name, photos in by_class.items() for photo in photos]
    return Split(name, root, photos=tuple(photo for photo, _ in rows), labels=tuple(label for _, label in rows))


def check_number_of_classes(data_dir: Path, classes: tuple[str, ...]) -> None:
    """Raise InputError unless there are two classes to tell apart."""
    if len(classes) >= 2:
        return
    found = f"only one class ({classes[0]})" if classes else "no class folders with photos"
    nested = [path.parent for path in sorted(data_dir.glob("*/train")) if path.is_dir()]
    hint = f"did you mean {nested[0]}?" if nested else "a class is a folder of photos, and there must be two at least"
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


def warn_of_copies(splits: Splits) -> None:
    """Warn of photos that are in training and held out too, byte for byte: they make the accuracy a lie."""
    trained = by_size(splits.train)
    for split in filter(None, (splits.valid, splits.test)):
        copies = []
        for size, photos in by_size(split).items():
            known = {contents(splits.train.root / photo) for photo in trained.get(size, ()) if size}
            copies += [photo for photo in photos if known and contents(split.root / photo) in known]
        if copies:
            warn(
                f"{counted(len(copies), f'{split.name} photo')} of {len(split):,} are training photos too "
                f"({first_few(sorted(copies))}): the {split.name} accuracy will look better than it is"
            )


def by_size(split: Split) -> dict[int, list[str]]:
    """Map sizes in bytes to the photos of that size."""
    sizes: dict[int, list[str]] = {}
    for photo in split.photos:
        sizes.setdefault((split.root / photo).stat().st_size, []).append(photo)
    return sizes


def contents(path: Path) -> bytes:
    """Return a digest of a file's bytes; of one that cannot be read, one that no other has."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:  # which opening the photo will report
        return str(path).encode("utf-8", "surrogateescape")


def load_category_names(path: Path | None, classes: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Read a JSON mapping from class folder to the name that people use, such as cat_to_name.json.

    Returns the names of these classes alone. Raises InputError for a file that is no such mapping.
    """
    if path is None:
        return {}
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file", "category_names")  # but a folder, or a pipe that might never end
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=without_repetition)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "category_names") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON of names: {error}", "category_names") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f'{path} must map class folders to names, as in {{"21": "fire lily"}}', "category_names")
    if missing := [name for name in classes if name not in names]:
        close = nearest(missing[0], names, most=1)
        warn(
            f"{path} names {len(classes) - len(missing)} of {counted(len(classes), 'class', 'classes')}; "
            f"without a name: {first_few(missing)}" + (f" ({close[0]!r} has one)" if close else "")
        )
    return {name: names[name] for name in classes if name in names}


def without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a mapping of what a JSON file holds. Raises ValueError for a key that it gives two values."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]!r} is given twice")
    return mapping
