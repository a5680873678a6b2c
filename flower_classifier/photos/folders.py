"""What lies in a folder: photos, class folders, tar files with photos, the folders of train, valid and test.

In a tar file `74/image_01191.jpg` is of class 74, as on a disk. Or, as WebDataset names files, the class stands in a
file beside the photo: `000017.cls` holds that of `000017.jpg`. Files that belong together share a key, the name up to
the first dot.
"""

import itertools
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from flower_classifier.base.messages import InputError, counted, first_few, note, warn
from flower_classifier.photos.images import photo_endings
from flower_classifier.photos.tar_files import index_of, is_tar_name, read_each

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Left behind by macOS's zip and by Synology; hidden folders go by their dot
NOT_CLASSES = ("__MACOSX", "@eaDir")
# How much of a tree is sampled before the full search: the upper folders, and the first files of each
LOOKED_INTO, LOOKED_AT = 300, 1000
# A folder is refused if at least SURE_FROM folders in it hold files, fewer than LEAST_SHARE of them hold photos, and
# fewer than half of the would-be classes do. A folder "holds photos" if 1 file in FILES_PER_PHOTO is a photo. So label
# files beside the photos, or in folders of their own, do no harm.
SURE_FROM, LEAST_SHARE, FILES_PER_PHOTO = 20, 0.2, 20
LOOKED_INTO_CLASS = 20  # folders sampled in a would-be class
TELL_EVERY = 10  # seconds, in a long search


# ---------------------------------------------------------------------------------------------- the shape of a folder


def split_folders(data_dir: Path) -> dict[str, Path]:
    """Map train, valid and test to their folders, or return {} where class folders lie in `data_dir` itself.

    A split folder holds folders and a class folder holds photos: so a class may well be called "train".
    """
    folders: dict[str, Path] = {}
    for folder in visible_folders(data_dir):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None or (not visible_folders(folder) and any(is_photo(file) for file in folder.iterdir())):
            continue
        if split in folders:
            raise InputError(f"{data_dir} holds both {folders[split].name}/ and {folder.name}/; keep one of them")
        folders[split] = folder
    if folders and "train" not in folders:
        raise InputError(f"{data_dir} holds {first_few([f.name + '/' for f in folders.values()])} but no train/")
    return folders


def check_shape(data_dir: Path) -> None:
    """Raise InputError if the folders of `data_dir` are hardly classes, at once, before a long search.

    `data_dir` is then the folder of one class, or a tree of other files (a home folder, a disk) with a few photos.
    """
    if not visible_folders(data_dir) and any(is_photo(file) for file in data_dir.iterdir()):
        above = data_dir.absolute().parent
        above = above.parent if above.name.lower() in SPLIT_NAMES else above
        raise InputError(f"{data_dir} holds photos and no folders, so it is one class: give the folder above, {above}")
    classes = visible_folders(data_dir)
    with_files = [holds for holds in itertools.islice(hold_photos(classes), LOOKED_INTO) if holds is not None]
    count, holding = len(with_files), sum(with_files)
    if count < SURE_FROM or holding >= LEAST_SHARE * count:
        return
    first = classes[:LOOKED_INTO]  # of which half may hold photos, themselves or in the first folders below
    if 2 * sum(any(itertools.islice(hold_photos([folder]), LOOKED_INTO_CLASS)) for folder in first) < len(first):
        raise InputError(
            f"{data_dir} is no folder of photos: of the first {count} folders with files below it, {holding} hold "
            f"photos.\nGive the folder that holds the class folders, or move those into a folder train/ of their own"
        )


def hold_photos(folders: Sequence[Path]) -> Iterator[bool | None]:
    """Yield whether each folder holds photos, None for one without files; then the same of the folders below.

    Links are not followed, unreadable folders are passed over, and only the first entries of a large one are counted.
    """
    waiting = deque(folders)
    while waiting:
        photos = files = 0
        try:
            with os.scandir(waiting.popleft()) as entries:
                for entry in itertools.islice(entries, LOOKED_AT):
                    if entry.is_dir(follow_symlinks=False):
                        if not is_ignored(entry.name):
                            waiting.append(Path(entry.path))
                    elif not entry.name.startswith("."):
                        files += 1
                        photos += has_photo_suffix(entry.name)
        except OSError:  # the full search, if there is one, will report it
            continue
        yield photos * FILES_PER_PHOTO >= files if files else None


# -------------------------------------------------------------------------------------------------------- what it holds


def find_classes(data_dir: Path, folder: Path) -> dict[str, list[str]]:
    """Map each class of `folder` that has photos to their paths below `data_dir`.

    Photos lie in class folders or in tar files. Tar files beside class folders are left out: they may hold the same.
    Classes, and photos in folders, are sorted by name as a string ("1", "10", "2"), as by torchvision's ImageFolder.
    """
    patience = SearchProgress(folder)
    photos = {path.name: find_photos(path, patience) for path in visible_folders(folder)}
    if loose := sum(is_photo(path) for path in folder.iterdir()):
        warn(f"{folder}: {counted(loose, 'photo')} beside the class folders left out, being of no class")
    if empty := [name for name, paths in photos.items() if not paths]:
        warn(f"{folder}: {counted(len(empty), 'folder')} without photos left out: {first_few(empty)}")
    in_folders = {
        name: [path.relative_to(data_dir).as_posix() for path in paths] for name, paths in photos.items() if paths
    }
    shards = shards_of(folder)
    if in_folders:
        if shards:
            named = first_few([shard.name for shard in shards])
            warn(f"{folder}: {counted(len(shards), 'tar file')} beside the class folders left out: {named}")
        return in_folders
    classes: dict[str, list[str]] = {}
    without_photos = []
    for shard in shards:
        tar, shard_classes = shard.relative_to(data_dir).as_posix(), classes_in(shard)
        for class_name, names in shard_classes.items():
            classes.setdefault(class_name, []).extend(f"{tar}/{name}" for name in names)
            patience.count(len(names))
        if not shard_classes:
            without_photos.append(shard.name)
    if without_photos:
        count = counted(len(without_photos), "tar file")
        warn(f"{folder}: {count} without photos left out: {first_few(without_photos)}")
    if packed := [path.name for path in folder.iterdir() if COMPRESSED.search(path.name)]:
        warn(f"{folder}: photos cannot be read from compressed archives ({first_few(packed)}): unpack them")
    return dict(sorted(classes.items()))


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted by name as a string, without hidden ones and other tools' litter."""
    try:
        folders = (path for path in folder.iterdir() if path.is_dir() and not is_ignored(path.name))
        return sorted(folders, key=lambda path: path.name)  # a Path would sort as the platform does
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from None


class SearchProgress:
    """Says now and then how far a long search in a folder has come."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found, self.noted_at = folder, 0, time.monotonic()

    def count(self, photos: int) -> None:
        """Count photos that have been found."""
        self.found += photos
        if time.monotonic() - self.noted_at > TELL_EVERY:
            self.noted_at = time.monotonic()
            note(f"still looking for photos in {self.folder}: {self.found:,} so far")


def find_photos(folder: Path, patience: SearchProgress | None = None) -> list[Path]:
    """Return every photo below `folder`, sorted; a loop of symbolic links is walked once."""
    photos, seen, patience = [], set(), patience or SearchProgress(folder)

    def refuse_unreadable(error: OSError) -> NoReturn:  # a folder that os.walk would silently skip
        raise InputError(f"cannot read {error.filename}: {error.strerror}")

    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse_unreadable):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        in_folder = [path for path in (Path(root, name) for name in sorted(files)) if is_photo(path)]
        patience.count(len(in_folder))
        photos += in_folder
    return photos


def is_ignored(name: str) -> bool:
    """Say whether a folder is left out of the data, whatever lies in it."""
    return name.startswith(".") or name in NOT_CLASSES


def is_photo(path: Path) -> bool:
    """Say whether a file is taken for a photo: a regular file, not hidden, with an image's ending."""
    return not path.name.startswith(".") and has_photo_suffix(path.name) and path.is_file()


def has_photo_suffix(name: str) -> bool:
    """Say whether a file's name ends as an image's does."""
    return os.path.splitext(name)[1].lower() in photo_endings()  # noqa: PTH122 -- a Path of each takes its time


# ------------------------------------------------------------------------------------------------------------ tar files


COMPRESSED = re.compile(r"\.(tar\.\w+|t[bgx]z2?|zip)$", re.IGNORECASE)
CLASS_ENDING = "cls"
LONGEST_CLASS = 255  # bytes, as of a folder's name


def shards_of(folder: Path) -> list[Path]:
    """Return the tar files that lie in a folder, sorted by name as a string."""
    return sorted(filter(is_shard, folder.iterdir()), key=lambda path: path.name)


def is_shard(path: Path) -> bool:
    """Say whether a file is taken for a tar file of photos."""
    return is_tar_name(path.name) and os.path.isfile(path)  # noqa: PTH113 -- Path.is_file() may raise


def photos_in(tar: Path) -> list[str]:
    """Return the names of the photos in a tar file, without hidden ones and other tools' litter.

    Raises OSError, and InputError for a damaged file.
    """
    return [
        name
        for name in index_of(os.fspath(tar)).extents
        if has_photo_suffix(name) and not any(map(is_ignored, name.split("/")))
    ]


def classes_in(tar: Path) -> dict[str, list[str]]:
    """Map each class to the names of its photos in a tar file.

    Raises OSError, and InputError for a damaged file. Photos of no class are left out with a warning.
    """
    classes = read_classes(tar)
    by_key: dict[str, list[str]] = {}
    for name in photos_in(tar):
        by_key.setdefault(split_name(name)[0], []).append(name)
    by_class: dict[str, list[str]] = {}
    loose = list(index_of(os.fspath(tar)).passed_over)
    for key, photos in by_key.items():
        of_class = photos
        if key in classes:  # which is that of `000017.jpg`, not of `000017.mask.png`, unless there is no other
            of_class = [name for name in photos if f".{split_name(name)[1]}" in photo_endings()] or photos[:1]
        for photo in of_class:
            class_name = classes.get(key, photo.partition("/")[0] if "/" in photo else "")
            if class_name:
                by_class.setdefault(class_name, []).append(photo)
            else:
                loose.append(photo)
    if loose:
        warn(f"{tar}: {counted(len(loose), 'file')} left out, of no class or not to be read ({first_few(loose)})")
    return by_class


def read_classes(tar: Path) -> dict[str, str]:
    """Map each key in a tar file to the class in its .cls file, or to "" if that is no valid class."""
    extents = index_of(os.fspath(tar)).extents
    names = [name for name in extents if split_name(name)[1] == CLASS_ENDING]
    short = [name for name in names if extents[name].size <= LONGEST_CLASS]
    classes = {split_name(name)[0]: "" for name in names}
    for name, text in zip(short, read_each(os.fspath(tar), short), strict=True):
        class_name = text.decode("utf-8-sig", "replace").strip()
        is_valid = class_name.isprintable() and not set(class_name) & {"/", "\ufffd"}
        classes[split_name(name)[0]] = class_name if is_valid else ""
    return classes


def split_name(name: str) -> tuple[str, str]:
    """Divide a name, as WebDataset does, into its key and its ending, in lower case."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()
