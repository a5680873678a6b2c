"""What lies in a folder: photos, class folders, tar files with photos, and files that are none of these.

In a tar file `74/image_01191.jpg` is of class 74, as on a disk. Or, as WebDataset names files, the class stands in a
file beside the photo: `000017.cls` holds that of `000017.jpg`. Files that belong together share a key, the name up to
the first dot.
"""

import os
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from flower_classifier.base.messages import InputError, counted, first_few, note, warn
from flower_classifier.photos.images import begins_as_photo, photo_endings
from flower_classifier.photos.tar_files import index_of, is_tar_name, read_each

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Words that name no class beside a split's: seg_train, training_set, test_images, trainset
FILLERS = ("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos", "pictures", "seg")
# Left behind by macOS's zip, by Synology and QNAP, and by Windows; hidden folders go by their dot
NOT_CLASSES = ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
LITTER = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")  # files that systems leave in folders
# Names that may be a photo's, though they do not end as one: without an ending, or with something behind it, as in
# "1.jpg_large" and "1.jpg?w=600". Not of half a download, nor of what exiftool leaves when it changes a photo
MAY_BE_PHOTO = re.compile(
    r"[^.]+|.+\.(jpe?g|png|webp|gif|tiff?|hei[cf]|avif)(?!_original|.*\.(part|crdownload|tmp)$).+", re.IGNORECASE
)
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
ByClass = dict[str, list[str]]  # class -> its photos
TELL_EVERY = 10  # seconds, in a long search


def find_classes(data_dir: Path, folder: Path | None, class_folders: Mapping[str, Path]) -> ByClass:
    """Map each class that has photos to their paths below `data_dir`.

    Photos lie in class folders, or in tar files in `folder`. Tar files beside class folders are left out: they may hold
    the same. Classes, and photos in folders, are sorted by name as a string ("1", "10", "2"), as by torchvision's
    ImageFolder. Raises InputError for class folders whose names look the same.
    """
    search = PhotoSearch(folder or data_dir)
    photos = {path: search.photos_below(path) for path in class_folders.values()}
    by_name: dict[str, Path] = {}
    for name, path in class_folders.items():
        if photos[path] and by_name.setdefault(class_name_of(name), path) != path:
            raise InputError(
                f"{path.parent} holds two folders whose names look like {class_name_of(name)}: they differ in how "
                "letters are stored, or in blanks; put their photos into one"
            )
    search.report()
    if folder and (loose := sum(is_photo(path) for path in folder.iterdir())):
        warn(f"{folder}: {counted(loose, 'photo')} beside the class folders left out, being of no class")
    if empty := [name for name, path in class_folders.items() if not photos[path]]:
        warn(f"{folder or data_dir}: {counted(len(empty), 'folder')} without photos left out: {first_few(empty)}")
    in_folders = {
        name: [path.relative_to(data_dir).as_posix() for path in photos[by_name[name]]] for name in sorted(by_name)
    }
    shards = shards_of(folder) if folder else []
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
            search.count(len(names))
        if not shard_classes:
            without_photos.append(shard.name)
    if without_photos:
        count = counted(len(without_photos), "tar file")
        warn(f"{folder}: {count} without photos left out: {first_few(without_photos)}")
    packed = [path.name for path in folder.iterdir() if COMPRESSED.search(path.name)] if folder else []
    if packed:
        warn(f"{folder}: photos cannot be read from compressed archives ({first_few(packed)}): unpack them")
    return dict(sorted(classes.items()))


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted by name as a string, without hidden ones and other tools' litter."""
    try:
        folders = (path for path in folder.iterdir() if path.is_dir() and not is_ignored(path.name))
        return sorted(folders, key=lambda path: path.name)  # a Path would sort as the platform does
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from None


class PhotoSearch:
    """A search for photos in folders. It says now and then how far it has come, and in the end what it left out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos, self.noted_at = folder, 0, time.monotonic()
        self.left_out: Counter[str] = Counter()  # files that are no photos, by ending
        self.dangling: list[str] = []  # links to nothing

    def count(self, photos: int) -> None:
        """Count photos that have been found."""
        self.photos += photos
        if time.monotonic() - self.noted_at > TELL_EVERY:
            self.noted_at = time.monotonic()
            note(f"still looking for photos in {self.folder}: {self.photos:,} so far")

    def photos_below(self, folder: Path) -> list[Path]:
        """Return every photo below `folder`, sorted; a loop of symbolic links is walked once."""
        photos, seen = [], set()

        def refuse_unreadable(error: OSError) -> NoReturn:  # a folder that os.walk would silently skip
            raise InputError(f"cannot read {error.filename}: {error.strerror}")

        for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse_unreadable):
            status = Path(root).stat()
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not is_ignored(name))
            in_folder = []
            for path in (Path(root, name) for name in sorted(files)):
                if is_photo(path):
                    in_folder.append(path)
                else:
                    self.leave_out(path)
            self.count(len(in_folder))
            photos += in_folder
        return photos

    def leave_out(self, path: Path) -> None:
        """Note a file that is no photo, unless a system left it there."""
        if path.name.startswith(".") or path.name.lower() in LITTER:
            return
        if path.is_symlink() and not path.exists():
            self.dangling.append(f"{path.parent.name}/{path.name}")
        elif path.is_file():
            self.left_out[path.suffix or "no ending"] += 1

    def report(self) -> None:
        """Say what was left out."""
        if self.left_out:
            endings = first_few([f"{ending} {count:,}" for ending, count in self.left_out.most_common()])
            files = counted(self.left_out.total(), "file")
            note(f"{self.folder}: left out {files} that cannot be read here: {endings}")
        if self.dangling:
            links = counted(len(self.dangling), "link")
            warn(f"{self.folder}: left out {links} to files that do not exist: {first_few(self.dangling)}")


def find_photos(folder: Path) -> list[Path]:
    """Return every photo below `folder`, sorted, and say what was left out."""
    search = PhotoSearch(folder)
    photos = search.photos_below(folder)
    search.report()
    return photos


def class_name_of(name: str) -> str:
    """Return the class that a folder's name is of: in NFC, as keyboards type it, and without what cannot be seen.

    macOS writes an umlaut as two characters (NFD), and names copied from a web page may end in blanks. Joiners within a
    name stay: they are spelling in Persian and Hindi, and make one emoji of two.
    """
    return unicodedata.normalize("NFC", INVISIBLE.sub("", name)).strip(" \t\u00a0\u200c\u200d\u3000") or name


def split_of(name: str) -> str | None:
    """Return the split that a folder's name is of: "test1", "seg_test" and "test_images" are test's; None for none.

    "train_station" and "bullet train" are none: they may be classes.
    """
    words = [word for word in re.split(r"[\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()) if word]
    splits = []
    for word in words:
        if split := SPLIT_NAMES.get(word) or SPLIT_NAMES.get(re.sub(r"(set|data)$", "", word)):  # trainset, testdata
            splits.append(split)
        elif word not in FILLERS:
            return None
    return splits[0] if len(splits) == 1 else None


def is_ignored(name: str) -> bool:
    """Say whether a folder is left out of the data, whatever lies in it."""
    return name.startswith(".") or name in NOT_CLASSES


def is_photo(path: Path) -> bool:
    """Say whether a file is taken for a photo: a regular file, not hidden, an image by its ending or content."""
    if path.name.startswith(".") or not path.is_file():
        return False
    return has_photo_suffix(path.name) or bool(MAY_BE_PHOTO.fullmatch(path.name) and begins_as_photo(path))


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

    Raises OSError, and InputError for a damaged file, or one of several splits: what is to be judged by would be
    learned from. Photos of no class are left out with a warning.
    """
    classes = read_classes(tar)
    by_key: dict[str, list[str]] = {}
    for name in photos_in(tar):
        by_key.setdefault(split_name(name)[0], []).append(name)
    by_class: dict[str, list[str]] = {}
    loose = list(index_of(os.fspath(tar)).passed_over)
    folders: set[str] = set()
    for key, photos in by_key.items():
        of_class = photos
        if key in classes:  # which is that of `000017.jpg`, not of `000017.mask.png`, unless there is no other
            of_class = [name for name in photos if f".{split_name(name)[1]}" in photo_endings()] or photos[:1]
        else:
            folders.update(photos[0].split("/")[:-1])  # the others' too, as they share a key
        for photo in of_class:
            class_name = class_name_of(classes.get(key, photo.partition("/")[0] if "/" in photo else ""))
            if class_name:
                by_class.setdefault(class_name, []).append(photo)
            else:
                loose.append(photo)
    splits = sorted(filter(split_of, folders))
    if len(set(map(split_of, splits))) > 1:
        names = first_few([f"{name}/" for name in splits])
        raise InputError(f"{tar} holds {names}, which are splits and no classes: unpack it")
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
