"""What a sample of a tree says: whether it holds photos, or is a tree of other files, such as a home folder.

A search of all of it may take minutes, so a wrong folder is refused before.
"""

import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from flower_classifier.base.messages import InputError
from flower_classifier.photos.folders import (
    MAY_BE_PHOTO,
    SPLIT_NAMES,
    has_photo_suffix,
    is_ignored,
    is_photo,
    shards_of,
    visible_folders,
)
from flower_classifier.photos.images import begins_as_photo
from flower_classifier.photos.name_labels import labels_hint

# How much of a tree is sampled before the full search: the upper folders, and the first files of each
LOOKED_INTO, LOOKED_AT = 300, 1000
# A folder is refused if at least SURE_FROM folders in it hold files, fewer than LEAST_SHARE of them hold photos, and
# fewer than half of the would-be classes do. A folder "holds photos" if 1 file in FILES_PER_PHOTO is a photo. So label
# files beside the photos, or in folders of their own, do no harm.
SURE_FROM, LEAST_SHARE, FILES_PER_PHOTO = 20, 0.2, 20
LOOKED_INTO_CLASS = 20  # folders sampled in a would-be class
LOOKED_INSIDE = 5  # files of a folder whose names do not say whether they are photos


def check_shape(data_dir: Path) -> None:
    """Raise InputError if the folders of `data_dir` are hardly classes, at once, before a long search.

    `data_dir` is then the folder of one class, or a tree of other files (a home folder, a disk) with a few photos.
    """
    if not visible_folders(data_dir) and not shards_of(data_dir) and any(map(is_photo, data_dir.iterdir())):
        above = data_dir.absolute().parent
        above = above.parent if above.name.lower() in SPLIT_NAMES else above
        hint = labels_hint(data_dir) or "name a table of their classes, --labels FILE.csv"
        raise InputError(
            f"{data_dir} holds photos and no folders, so it is one class: give the folder above, {above}; or {hint}"
        )
    classes = visible_folders(data_dir)
    with_files = [holds for holds in itertools.islice(hold_photos(classes), LOOKED_INTO) if holds is not None]
    count, holding = len(with_files), sum(with_files)
    if count < SURE_FROM or holding >= LEAST_SHARE * count:
        return
    first = classes[:LOOKED_INTO]  # of which half may hold photos, themselves or in the first folders below
    if 2 * sum(map(may_hold_photos, first)) < len(first):
        raise InputError(
            f"{data_dir} is no folder of photos: of the first {count} folders with files below it, {holding} hold "
            f"photos.\nGive the folder that holds the class folders, or move those into a folder train/ of their own"
        )


def may_hold_photos(folder: Path) -> bool:
    """Say whether photos lie in a folder, or in the first folders below it."""
    return any(itertools.islice(hold_photos([folder]), LOOKED_INTO_CLASS))


def hold_photos(folders: Sequence[Path]) -> Iterator[bool | None]:
    """Yield whether each folder holds photos, None for one without files; then the same of the folders below.

    Links are not followed, unreadable folders are passed over, and only the first entries of a large one are counted.
    """
    waiting = deque(folders)
    while waiting:
        photos = files = unclear = 0
        try:
            with os.scandir(waiting.popleft()) as entries:
                for entry in itertools.islice(entries, LOOKED_AT):
                    if entry.is_dir(follow_symlinks=False):
                        if not is_ignored(entry.name):
                            waiting.append(Path(entry.path))
                    elif not entry.name.startswith("."):
                        files += 1
                        is_a_photo = has_photo_suffix(entry.name)
                        if not is_a_photo and unclear < LOOKED_INSIDE and MAY_BE_PHOTO.fullmatch(entry.name):
                            unclear += 1
                            is_a_photo = entry.is_file() and begins_as_photo(Path(entry.path))  # no pipe: it might wait
                        photos += is_a_photo
        except OSError:  # the full search, if there is one, will report it
            continue
        yield photos * FILES_PER_PHOTO >= files if files else None
