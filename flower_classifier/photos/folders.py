"""What lies in a folder: photos, class folders, the folders of train, valid and test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import warn
from flower_classifier.base.words import counted, first_few
from flower_classifier.photos.images import photo_endings

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Left behind by macOS's zip and by Synology; hidden folders go by their dot
NOT_CLASSES = ("__MACOSX", "@eaDir")


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
