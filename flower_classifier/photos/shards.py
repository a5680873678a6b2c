"""Photos in tar files: of which class they are, by folders in the tar file or by WebDataset's naming.

In `74/image_01191.jpg` the first folder is the class, as on a disk. Or the class stands in a file beside the photo:
`000017.cls` holds that of `000017.jpg`. What belongs together has the same key, the name up to the first dot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from flower_classifier.base.messages import warn
from flower_classifier.base.words import counted, first_few
from flower_classifier.photos.folders import Patience, by_name, find_classes, has_photo_ending, is_litter
from flower_classifier.photos.images import photo_endings
from flower_classifier.photos.photo_files import split_path
from flower_classifier.photos.tar_index import extent_in, index_of, is_tar_name, read_each

COMPRESSED = re.compile(r"\.(tar\.\w+|t[bgx]z2?|zip)$", re.IGNORECASE)
CLASS_ENDING = "cls"
LONGEST_CLASS = 255  # bytes, as of a folder's name


def find_classes_anywhere(data_dir: Path, folder: Path) -> dict[str, list[str]]:
    """Map each class of a folder to the paths of its photos below `data_dir`, the classes sorted by name as a string.

    Photos lie in class folders or in tar files. Tar files beside class folders are left out: they may hold the same.
    """
    in_folders, shards = find_classes(data_dir, folder), shards_of(folder)
    if in_folders and shards:
        named = first_few([shard.name for shard in shards])
        warn(f"{folder}: {counted(len(shards), 'tar file')} beside the class folders left out: {named}")
    return in_folders or find_classes_in_shards(data_dir, folder, shards)


def find_classes_in_shards(data_dir: Path, folder: Path, shards: Sequence[Path]) -> dict[str, list[str]]:
    """Do the same for the tar files of a folder; warn of those without photos, and of compressed ones."""
    found: dict[str, list[str]] = {}
    patience, empty = Patience(folder), []
    for shard in shards:
        tar, by_class = shard.relative_to(data_dir).as_posix(), classes_in(shard)
        for class_name, photos in by_class.items():
            found.setdefault(class_name, []).extend(f"{tar}/{photo}" for photo in photos)
            patience.count(len(photos))
        if not by_class:
            empty.append(shard.name)
    if empty:
        warn(f"{folder}: {counted(len(empty), 'tar file')} without photos left out: {first_few(empty)}")
    if packed := [path.name for path in folder.iterdir() if COMPRESSED.search(path.name)]:
        warn(f"{folder}: photos cannot be read from compressed archives ({first_few(packed)}): unpack them")
    return dict(sorted(found.items()))


def shards_of(folder: Path) -> list[Path]:
    """Return the tar files that lie in a folder, sorted by name as a string."""
    return sorted(filter(is_shard, folder.iterdir()), key=by_name)


def is_shard(path: Path) -> bool:
    """Say whether a file is taken for a tar file of photos."""
    return is_tar_name(path.name) and os.path.isfile(path)  # noqa: PTH113 -- Path.is_file() may raise


def photos_in(tar: Path) -> list[str]:
    """Return the names of the photos in a tar file. Raises OSError, and InputError for a damaged file."""
    return [name for name in index_of(os.fspath(tar)).extents if is_photo_name(name)]


def classes_in(tar: Path) -> dict[str, list[str]]:
    """Map each class to the names of its photos in a tar file.

    Raises OSError, and InputError for a damaged file. Photos of no class are left out with a warning.
    """
    classes = read_classes(tar)
    by_key: dict[str, list[str]] = {}
    for name in photos_in(tar):
        by_key.setdefault(split_name(name)[0], []).append(name)
    found: dict[str, list[str]] = {}
    loose = list(index_of(os.fspath(tar)).passed_over)
    for key, photos in by_key.items():
        for photo in pictured(photos) if key in classes else photos:
            class_name = classes.get(key, photo.partition("/")[0] if "/" in photo else "")
            if class_name:
                found.setdefault(class_name, []).append(photo)
            else:
                loose.append(photo)
    if loose:
        warn(f"{tar}: {counted(len(loose), 'file')} left out, of no class or not to be read ({first_few(loose)})")
    return found


def pictured(photos: Sequence[str]) -> list[str]:
    """Return which photos of a key the class is of: `000017.jpg`, not `000017.mask.png`, unless it is the only one."""
    plain = [name for name in photos if f".{split_name(name)[1]}" in photo_endings()]
    return plain or list(photos[:1])


def read_classes(tar: Path) -> dict[str, str]:
    """Map each key in a tar file to the class in its .cls file; to "" where that is none."""
    extents = index_of(os.fspath(tar)).extents
    names = [name for name in extents if split_name(name)[1] == CLASS_ENDING]
    short = [name for name in names if extents[name].size <= LONGEST_CLASS]
    classes = {split_name(name)[0]: "" for name in names}
    for name, text in zip(short, read_each(os.fspath(tar), short), strict=True):
        classes[split_name(name)[0]] = class_name_in(text)
    return classes


def class_name_in(text: bytes) -> str:
    """Return the class that a file's text says, or "" where that can be none."""
    name = text.decode("utf-8-sig", "replace").strip()
    return name if name.isprintable() and not set(name) & {"/", "\ufffd"} else ""


def split_name(name: str) -> tuple[str, str]:
    """Divide a name, as WebDataset does, into what it shares with others and its ending, in lower case."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def is_photo_name(name: str) -> bool:
    """Say whether a file in a tar file is taken for a photo: not hidden, and in no folder of another tool's litter."""
    return has_photo_ending(name) and not any(map(is_litter, name.split("/")))


def in_order_of_place(root: Path, rows: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Sort photos, and their labels, as they lie in the tar files below `root`: a disk reads them in one go.

    Those in folders stay as they are.
    """

    def position(row: tuple[str, int]) -> tuple[str, int]:
        inside = split_path(root / row[0])
        if not inside:
            return "", 0
        tar, name = inside
        return tar, extent_in(index_of(tar), tar, name).start

    return sorted(rows, key=position)
