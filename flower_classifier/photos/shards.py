"""Photos in tar files: of which class they are, by folders in the tar file or by WebDataset's naming.

In `74/image_01191.jpg` the first folder is the class, as on a disk. Or a file beside the photo says it: what belongs
together has one name up to the first dot, so `000017.cls` holds the class of `000017.jpg`.
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
from flower_classifier.photos.tar_files import ENDING, contents_of, place_in, split_path

COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|zip)$", re.IGNORECASE)
CLASS_ENDING = "cls"
LONGEST_CLASS = 255  # bytes, as of a folder's name


def find_classes_anywhere(data_dir: Path, folder: Path) -> dict[str, list[str]]:
    """Map each class of a folder to the paths of its photos below `data_dir`, the classes sorted by name as a string.

    Photos lie in class folders or in tar files: beside class folders, a tar file is hardly more than their archive.
    """
    in_folders, shards = find_classes(data_dir, folder), shards_of(folder)
    if in_folders and shards:
        named = first_few([shard.name for shard in shards])
        warn(f"{folder}: {counted(len(shards), 'tar file')} beside the class folders left out: {named}")
    if in_folders:
        return in_folders
    found: dict[str, list[str]] = {}
    patience = Patience(folder)
    for shard in shards:
        place = shard.relative_to(data_dir).as_posix()
        for class_name, photos in classes_in(shard).items():
            found.setdefault(class_name, []).extend(f"{place}/{photo}" for photo in photos)
            patience.count(len(photos))
    if not found and (packed := [path.name for path in folder.iterdir() if COMPRESSED.search(path.name)]):
        warn(f"{folder}: photos cannot be read from compressed archives ({first_few(packed)}): unpack them")
    return dict(sorted(found.items()))


def shards_of(folder: Path) -> list[Path]:
    """Return the tar files that lie in a folder, sorted by name as a string."""
    return sorted(filter(is_shard, folder.iterdir()), key=by_name)


def is_shard(path: Path) -> bool:
    """Say whether a file is taken for a tar file of photos."""
    return path.suffix == ENDING and not path.name.startswith(".") and path.is_file()


def photos_in(tar: Path) -> list[str]:
    """Return the names of the photos in a tar file. Raises OSError, and InputError for a damaged file."""
    return [name for name in contents_of(os.fspath(tar)).places if is_photo_name(name)]


def classes_in(tar: Path) -> dict[str, list[str]]:
    """Map each class to the names of its photos in a tar file.

    Raises OSError, and InputError for a damaged file. Photos of no class are left out with a warning.
    """
    classes = read_classes(tar)
    by_key: dict[str, list[str]] = {}
    for name in photos_in(tar):
        by_key.setdefault(split_name(name)[0], []).append(name)
    found: dict[str, list[str]] = {}
    loose = [name for name in contents_of(os.fspath(tar)).passed_over if is_photo_name(name.lstrip("./"))]
    for key, photos in by_key.items():
        for photo in pictured(photos) if key in classes else photos:
            class_name = classes.get(key, photo.partition("/")[0] if "/" in photo else "")
            if class_name:
                found.setdefault(class_name, []).append(photo)
            else:
                loose.append(photo)
    if loose:
        warn(f"{tar}: {counted(len(loose), 'photo')} left out, being of no class or nowhere ({first_few(loose)})")
    return found


def pictured(photos: Sequence[str]) -> list[str]:
    """Return which photos, of those with one key, show what the class says: `000017.mask.png` does not."""
    plain = [name for name in photos if f".{split_name(name)[1]}" in photo_endings()]
    return plain or list(photos[:1])


def read_classes(tar: Path) -> dict[str, str]:
    """Map what belongs together in a tar file to the class that a file there says; "" where that cannot be one."""
    classes = {}
    with tar.open("rb") as file:
        for name, place in contents_of(os.fspath(tar)).places.items():
            key, ending = split_name(name)
            if ending == CLASS_ENDING:
                file.seek(place.start)
                text = file.read(min(place.size, LONGEST_CLASS + 1))
                classes[key] = class_name_in(text)
    return classes


def class_name_in(text: bytes) -> str:
    """Return the class that a file's text says, or "" where that can be none."""
    name = text.decode("utf-8", "replace").strip()
    fits = len(text) <= LONGEST_CLASS and name.isprintable() and not set(name) & {"/", "\ufffd"}
    return name if fits else ""


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

    Those in folders stay as they are, before the others.
    """

    def place(row: tuple[str, int]) -> tuple[str, int]:
        inside = split_path(root / row[0])
        if not inside:
            return "", 0
        tar, name = inside
        return tar, place_in(contents_of(tar), tar, name).start

    return sorted(rows, key=place)
