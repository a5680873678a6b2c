"""How a data folder is laid out: which of its folders are splits, which are classes, and which are neither.

    flowers/train/rose/1.jpg, flowers/valid/rose/2.jpg      a folder for each split; only train/ must be there
    flowers/rose/1.jpg                                      class folders alone: some photos are held out
    flowers/rose/train/1.jpg, flowers/rose/valid/2.jpg      the splits in each class

Data sets are packed in more ways: seg_train/seg_train/rose, training_set/training_set/rose, archive/flowers/train/rose.
Where only one reading makes sense it is taken, and said. Else InputError says what to do: a split that is taken for a
class teaches what nobody meant.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flower_classifier.base.messages import InputError, counted, first_few, note, warn
from flower_classifier.photos.folders import has_photo_suffix, is_ignored, is_photo, shards_of, visible_folders

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Words that name no class beside a split's: seg_train, training_set, test_images, trainset
FILLERS = ("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos", "pictures", "seg")
FOLD = re.compile(r"(fold|split|part|cv)[ _.-]*\d+", re.IGNORECASE)
# Files by which folders that our commands wrote are recognised. All pictures in --plot's folder end as 1.jpg.png does
OUR_FILES = ("checkpoint.pth", "last.pth", "evaluation.json", "doctor.csv", "manifest.webmanifest", "model.onnx")
HIDDEN_LITTER = (".ipynb_checkpoints", ".thumbnails", ".trashes", ".git", ".cache", ".picasaoriginals")
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".xlsx")
PLOT = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf])\.png$", re.IGNORECASE)
# How much of a tree is sampled before the full search: the upper folders, and the first files of each
LOOKED_INTO, LOOKED_AT = 300, 1000
# A folder is refused if at least SURE_FROM folders in it hold files, fewer than LEAST_SHARE of them hold photos, and
# fewer than half of the would-be classes do. A folder "holds photos" if 1 file in FILES_PER_PHOTO is a photo. So label
# files beside the photos, or in folders of their own, do no harm.
SURE_FROM, LEAST_SHARE, FILES_PER_PHOTO = 20, 0.2, 20
LOOKED_INTO_CLASS = 20  # folders sampled in a would-be class


class SplitFolder(NamedTuple):
    """Where the photos of a split lie."""

    folder: Path | None  # in which tar files may lie, and photos of no class
    classes: Mapping[str, Path]  # folder of each class, by its name


def layout_of(data_dir: Path) -> dict[str, SplitFolder]:
    """Map train, and valid and test if they are there, to where their photos lie.

    Raises InputError for folders that make no sense as splits and classes.
    """
    if ours := [f"{folder.name}/" for folder in visible_folders(data_dir) if is_ours(folder)]:
        note(f"{data_dir}: left out what this program wrote: {first_few(ours)}")
    splits = split_folders(data_dir)
    inner: Path | None = data_dir
    while not splits and (inner := only_folder(inner)):
        if splits := split_folders(inner):
            note(f"{data_dir} holds one folder: taking the photos from {inner}")
    for folder in splits.values() or (data_dir,):
        warn_of_hidden(folder)
    if splits:
        return {
            split: SplitFolder(folder, {inner.name: inner for inner in class_folders(folder)})
            for split, folder in splits.items()
        }
    check_shape(data_dir)
    classes = class_folders(data_dir)
    if by_class := splits_in_classes(data_dir, classes):
        return by_class
    return {"train": SplitFolder(data_dir, {folder.name: folder for folder in classes})}


def split_folders(data_dir: Path) -> dict[str, Path]:
    """Map train, valid and test to their folders, or return {} where `data_dir` holds class folders, or nothing.

    A split folder holds folders and a class folder holds photos: so a class may well be called "train", beside others.
    """
    children = class_folders(data_dir)
    named = [(folder, split) for folder in children if (split := split_of(folder.name))]
    flat = [folder for folder, _ in named if is_flat(folder)]
    folders: dict[str, Path] = {}
    for folder, split in named:
        if folder in flat:
            continue
        if split in folders:
            raise InputError(f"{data_dir} holds both {folders[split].name}/ and {folder.name}/; keep one of them")
        folders[split] = folder
    if not folders:
        check_flat(data_dir, children, flat)
        return {}
    if "train" not in folders:
        raise InputError(f"{data_dir} holds {first_few([f'{f.name}/' for f in folders.values()])} but no train/")
    refuse_flat(
        data_dir, [folder for folder in flat if split_of(folder.name) != "test"], "sort them, or move them away"
    )
    for folder in flat:
        warn(f"{folder}: its photos lie in no class folders, and are left out; predict.py can name them")
    beside = [folder.name for folder in children if not split_of(folder.name) and may_hold_photos(folder)]
    if beside:
        names = first_few([f"{name}/" for name in beside])
        warn(f"{data_dir}: {counted(len(beside), 'folder')} beside {folders['train'].name}/ left out: {names}")
    return {split: doubled(folder, split) for split, folder in folders.items()}


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


def is_flat(folder: Path) -> bool:
    """Say whether photos lie in a folder itself, and no folders."""
    return not class_folders(folder) and any(is_photo(path) for path in folder.iterdir())


def check_flat(data_dir: Path, children: Sequence[Path], flat: Sequence[Path]) -> None:
    """Raise InputError where folders of photos are splits or folds by their names, and not classes."""
    names = first_few([f"{folder.name}/" for folder in children])
    if len(children) > 1 and all(FOLD.fullmatch(folder.name) for folder in children):
        raise InputError(
            f"{data_dir}: {names} are no classes, by their names. Move photos to learn from into train/, and those to "
            "choose an epoch by into valid/"
        )
    if len(flat) == len(children):
        refuse_flat(data_dir, flat, "sort those to learn from into a folder for each class")
    if not_train := [folder for folder in flat if split_of(folder.name) != "train"]:  # which may be a class
        refuse_flat(data_dir, not_train, "move them away, or sort them into a folder for each class")


def refuse_flat(data_dir: Path, flat: Sequence[Path], advice: str) -> None:
    """Raise InputError for splits whose photos are of no class."""
    if flat:
        names = " and ".join(f"{folder.name}/" for folder in flat)
        tables = [path.name for path in sorted(data_dir.iterdir()) if path.suffix.lower() in TABLE_ENDINGS]
        hint = f" ({first_few(tables)} may say of which class each is)" if tables else ""
        raise InputError(
            f"{data_dir}: photos in {names} lie in no class folders, so their class is unknown{hint}: {advice}"
        )


def doubled(folder: Path, split: str) -> Path:
    """Return the folder in a split's folder that is the split's too: training_set/training_set, train/images."""
    inner = only_folder(folder)
    if inner and not is_flat(inner) and (split_of(inner.name) == split or inner.name.lower() in FILLERS):
        note(f"{folder} holds {inner.name}/ alone: its folders are the classes")
        return inner
    return folder


def only_folder(folder: Path) -> Path | None:
    """Return the only folder in a folder, if no photos and no tar files lie beside it."""
    folders = class_folders(folder)
    if len(folders) == 1 and not shards_of(folder) and not any(is_photo(path) for path in folder.iterdir()):
        return folders[0]
    return None


def splits_in_classes(data_dir: Path, classes: Sequence[Path]) -> dict[str, SplitFolder]:
    """Return where the photos of each split lie if every class holds its own splits; {} if none does.

    Raises InputError if only some classes do.
    """
    inner = {folder: {split_of(path.name): path for path in visible_folders(folder)} for folder in classes}
    divided = [folder for folder, splits in inner.items() if "train" in splits and None not in splits]
    if not divided:
        return {}
    if whole := [folder.name for folder in classes if folder not in divided]:
        names = first_few([f"{name}/" for name in whole])
        raise InputError(f"{data_dir}: {divided[0].name}/ holds train/ for itself, and {names} does not: divide all")
    by_split: dict[str, dict[str, Path]] = {}
    for folder, splits in inner.items():
        for split, path in splits.items():
            by_split.setdefault(split or "", {})[folder.name] = path
    note(f"{data_dir}: every class holds its own {first_few([f'{split}/' for split in by_split])}")
    return {split: SplitFolder(data_dir if split == "train" else None, folders) for split, folders in by_split.items()}


def warn_of_hidden(folder: Path) -> None:
    """Warn of folders with photos that are left out because their names begin with a dot."""
    hidden = [
        path.name
        for path in folder.iterdir()
        if path.name.startswith(".") and path.name.lower() not in HIDDEN_LITTER and path.is_dir() and holds_photos(path)
    ]
    if hidden:
        advice = "as their names begin with a dot: rename those that are classes"
        warn(f"{folder}: hidden folders left out: {first_few(sorted(hidden))}, {advice}")


def holds_photos(folder: Path) -> bool:
    """Say whether photos lie in a folder itself."""
    with contextlib.suppress(OSError):
        return any(is_photo(path) for path in itertools.islice(folder.iterdir(), LOOKED_AT))
    return False


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that may be classes or splits, sorted by name; what our commands wrote is not."""
    return [path for path in visible_folders(folder) if not is_ours(path)]


def is_ours(folder: Path) -> bool:
    """Say whether our commands wrote what lies in a folder: a run, a report, the doctor's, an export, plots."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 -- names alone, of folders that may hold very many
    except OSError:
        return False  # the full search will report it
    pictures = [name for name in names if has_photo_suffix(name)]
    return any(name in OUR_FILES for name in names) or bool(pictures and all(map(PLOT.search, pictures)))


# -------------------------------------------------------------------------------------- trees of other files, one class


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
