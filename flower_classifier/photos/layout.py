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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flower_classifier.base.messages import InputError, counted, first_few, note, warn
from flower_classifier.photos.folder_samples import check_shape, may_hold_photos
from flower_classifier.photos.folders import (
    FILLERS,
    SPLIT_NAMES,
    ByClass,
    class_name_of,
    find_classes,
    has_photo_suffix,
    is_photo,
    shards_of,
    split_of,
    visible_folders,
)
from flower_classifier.photos.name_labels import labels_hint
from flower_classifier.photos.tar_files import split_path

FOLD = re.compile(r"(fold|split|part|cv)[ _.-]*\d+", re.IGNORECASE)
# Files by which folders that our commands wrote are recognised. All pictures in --plot's folder end as 1.jpg.png does
OUR_FILES = ("checkpoint.pth", "last.pth", "evaluation.json", "doctor.csv", "manifest.webmanifest", "model.onnx")
HIDDEN_LITTER = (".ipynb_checkpoints", ".thumbnails", ".trashes", ".git", ".cache", ".picasaoriginals")
PLOT = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf])\.png$", re.IGNORECASE)
MOST_LOOKED_AT = 1000  # entries of a hidden folder
IF_CLASSES = "; if these are classes, put all classes into a folder train/"


class SplitFolder(NamedTuple):
    """Where the photos of a split lie."""

    folder: Path | None  # in which tar files may lie, and photos of no class
    classes: Mapping[str, Path]  # folder of each class, by its name


def photos_by_split(data_dir: Path) -> tuple[dict[str, ByClass], dict[str, str]]:
    """Map train, and valid and test if they are there, to the photos of each class, by what folders say.

    Return the folder of each class of training photos, too. Photos and folders are paths below `data_dir`. Raises
    InputError for folders that make no sense as splits and classes.
    """
    layout = layout_of(data_dir)
    by_split = {split: find_classes(data_dir, *folders) for split, folders in layout.items()}
    base, folders = layout["train"]
    if base and all(folder.parent == base for folder in folders.values()):  # else every class holds its own splits
        depth = len(base.relative_to(data_dir).parts) + 1
        photos = [photo for class_photos in by_split["train"].values() for photo in class_photos]
        if photos and all(photo.count("/") > depth and not split_path(data_dir / photo) for photo in photos):
            where = f"lie in folders below {first_few(list(by_split['train']))}"
            warn(f"{base}: all photos {where}, which are taken for classes; is this a level too high?")
    if "valid" in layout and not by_split["valid"]:
        raise InputError(f"{layout['valid'].folder} holds no class folders with photos: fill it, or remove it")
    if "test" in layout and not by_split["test"]:
        warn(f"{layout['test'].folder} holds no class folders with photos: there will be no test result")
        del by_split["test"]
    class_folders = {class_name_of(name): path.relative_to(data_dir).as_posix() for name, path in folders.items()}
    return by_split, class_folders


def layout_of(data_dir: Path) -> dict[str, SplitFolder]:
    """Map train, and valid and test if they are there, to where their photos lie.

    Raises InputError for folders that make no sense as splits and classes.
    """
    top = innermost(data_dir)
    if top != data_dir:
        note(f"{data_dir} holds one folder: taking the photos from {top}")
    splits = split_folders(top)
    for folder in (top, *splits.values()):
        report_left_out(folder)
    for folder in splits.values():
        check_inside_split(folder)
    if splits:
        return {
            split: SplitFolder(folder, {inner.name: inner for inner in class_folders(folder)})
            for split, folder in splits.items()
        }
    check_shape(top)
    check_shards(top)
    classes = class_folders(top)
    if by_class := splits_in_classes(top, classes):
        return by_class
    return {"train": SplitFolder(top, {folder.name: folder for folder in classes})}


def innermost(folder: Path) -> Path:
    """Follow folders that hold one folder alone down to one that holds splits or several classes; else return this."""
    inner = only_folder(folder)
    while inner and len(class_folders(inner)) < 2 and not split_of(inner.name):
        if any(split_of(path.name) == "train" for path in class_folders(inner)):
            break
        inner = only_folder(inner)
    return inner if inner and not split_of(inner.name) and not is_unsorted(inner) and may_hold_photos(inner) else folder


def check_shards(folder: Path) -> None:
    """Raise InputError where the tar files of a folder are of several splits."""
    by_split = {
        SPLIT_NAMES[word]: shard.name
        for shard in shards_of(folder)
        for word in re.split(r"[\W\d_]+", shard.stem.lower())
        if word in SPLIT_NAMES
    }
    if len(by_split) > 1:
        names = first_few(list(by_split.values()))
        folders = first_few([f"{split}/" for split in by_split])
        raise InputError(f"{folder} holds tar files of several splits ({names}): move them into folders {folders}")


def check_inside_split(folder: Path) -> None:
    """Raise InputError where folders in a split's folder are splits or folds too, and not classes."""
    inner = class_folders(folder)
    splits = [path.name for path in inner if split_of(path.name) and not is_unsorted(path)]
    are_folds = len(inner) > 1 and all(FOLD.fullmatch(path.name) and not is_unsorted(path) for path in inner)
    if len(splits) > 1 or are_folds:
        names = first_few([f"{name}/" for name in splits or [path.name for path in inner]])
        raise InputError(
            f"{folder} holds {names}, no classes by their names: put the class folders into {folder.name}/"
        )


def split_folders(data_dir: Path) -> dict[str, Path]:
    """Map train, valid and test to their folders, or return {} where `data_dir` holds class folders, or nothing.

    A split folder holds folders and a class folder holds photos: so a class may well be called "train", beside others.
    """
    children = class_folders(data_dir)
    named = [(folder, split) for folder in children if (split := split_of(folder.name))]
    unsorted = [folder for folder, _ in named if is_unsorted(folder)]
    folders: dict[str, Path] = {}
    for folder, split in named:
        if folder in unsorted:
            continue
        if split in folders:
            raise InputError(f"{data_dir} holds both {folders[split].name}/ and {folder.name}/; keep one of them")
        folders[split] = folder
    if not folders:
        check_classes(data_dir, children, unsorted)
        return {}
    meant = [folder for folder in unsorted if split_of(folder.name) != "test"]
    refuse_unsorted(data_dir, meant, "sort them, or move them away")
    if "train" not in folders:
        raise InputError(f"{data_dir} holds {first_few([f'{f.name}/' for f in folders.values()])} but no train/")
    for folder in unsorted:
        warn(f"{folder}: its photos lie in no class folders, and are left out; predict.py can name them")
    beside = [folder.name for folder in children if not split_of(folder.name) and may_hold_photos(folder)]
    if beside:
        names = first_few([f"{name}/" for name in beside])
        warn(f"{data_dir}: {counted(len(beside), 'folder')} beside {folders['train'].name}/ left out: {names}")
    train = folder_of_classes(folders["train"], "train", may_be_any=True)
    is_deeper = train != folders["train"]
    return {
        split: train if split == "train" else folder_of_classes(folder, split, is_deeper)
        for split, folder in folders.items()
    }


def is_unsorted(folder: Path) -> bool:
    """Say whether a folder's photos lie in no class folders: in itself, or in a folder images/ or of a split's name."""
    while (inner := only_folder(folder)) and (split_of(inner.name) or inner.name.lower() in FILLERS):
        folder = inner
    holds_folders = bool(class_folders(folder) or shards_of(folder))
    return not holds_folders and any(is_photo(path) for path in folder.iterdir())


def check_classes(data_dir: Path, children: Sequence[Path], unsorted: Sequence[Path]) -> None:
    """Raise InputError where would-be classes are splits or folds by their names. `unsorted`: those named as splits."""
    if len(children) > 1 and all(FOLD.fullmatch(folder.name) for folder in children):
        names = first_few([f"{folder.name}/" for folder in children])
        hint = labels_hint(data_dir, children)
        raise InputError(
            f"{data_dir}: {names} are no classes, by their names: {f'{hint}; or ' if hint else ''}move photos to learn "
            f"from into train/, and those to choose an epoch by into valid/{IF_CLASSES}"
        )
    if unsorted and len(unsorted) == len(children):
        refuse_unsorted(data_dir, unsorted, "sort those to learn from into a folder for each class")
    others = [folder for folder in unsorted if split_of(folder.name) != "train"]
    refuse_unsorted(data_dir, others, f"move them away, or sort them into a folder for each class{IF_CLASSES}")
    for folder in unsorted:  # there are other classes, so "train" may be one
        warn(f"{data_dir}: {folder.name}/ is taken for a class: its photos lie in no class folders")


def refuse_unsorted(data_dir: Path, unsorted: Sequence[Path], advice: str) -> None:
    """Raise InputError for splits whose photos are of no class, if there are any."""
    if unsorted:
        names = " and ".join(f"{folder.name}/" for folder in unsorted)
        hint = labels_hint(data_dir, [folder for folder in unsorted if split_of(folder.name) != "test"] or unsorted)
        raise InputError(
            f"{data_dir}: photos in {names} lie in no class folders, so their class is unknown: "
            f"{f'{hint}; or ' if hint else ''}{advice}"
        )


def folder_of_classes(folder: Path, split: str, may_be_any: bool) -> Path:
    """Return the folder that holds a split's classes: training_set/training_set, train/images, perhaps train/flowers.

    `may_be_any`: whether a folder within that has any name may hold them, and not be a class itself.
    """
    inner = only_folder(folder)
    if not inner or is_unsorted(inner):
        return folder
    is_named_so = split_of(inner.name) == split or inner.name.lower() in FILLERS
    if is_named_so or (may_be_any and len(class_folders(inner)) > 1):
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
    inner = {folder: class_folders(folder) for folder in classes if may_hold_photos(folder)}
    named = {folder: {split_of(path.name) for path in paths} for folder, paths in inner.items()}
    divided = [folder for folder, splits in named.items() if "train" in splits and len(splits) > 1]
    if not divided:
        return {}
    if whole := [f"{folder.name}/" for folder in inner if folder not in divided]:
        raise InputError(
            f"{data_dir}: {divided[0].name}/ holds train/ for itself, and {first_few(whole)} does not: divide all"
        )
    by_split: dict[str, dict[str, Path]] = {}
    for folder, paths in inner.items():
        loose = [folder.name] if any(is_photo(path) for path in folder.iterdir()) else []
        for path in paths:
            split = split_of(path.name)
            if split is None:
                loose.append(f"{folder.name}/{path.name}")
            elif by_split.setdefault(split, {}).setdefault(folder.name, path) != path:
                raise InputError(f"{folder} holds two folders of {split} photos, {path.name}/ is one; keep one of them")
        if loose:
            warn(f"{data_dir}: photos in {first_few([f'{name}/' for name in loose])} left out, as in no split")
    note(f"{data_dir}: every class holds its own {first_few([f'{split}/' for split in by_split])}")
    return {split: SplitFolder(data_dir if split == "train" else None, folders) for split, folders in by_split.items()}


def report_left_out(folder: Path) -> None:
    """Say which folders in a folder are no classes: what this program wrote, hidden ones with photos, dead links."""
    if ours := [f"{path.name}/" for path in visible_folders(folder) if is_ours(path)]:
        note(f"{folder}: left out what this program wrote: {first_few(ours)}")
    hidden, dangling = [], []
    for path in folder.iterdir():
        if path.name.startswith("."):
            if path.name.lower() not in HIDDEN_LITTER and path.is_dir() and holds_photos(path):
                hidden.append(path.name)
        elif path.is_symlink() and not path.exists():
            dangling.append(path.name)
    if hidden:
        advice = "as their names begin with a dot: rename those that are classes"
        warn(f"{folder}: hidden folders left out: {first_few(sorted(hidden))}, {advice}")
    if dangling:
        warn(f"{folder}: left out links to what does not exist: {first_few(sorted(dangling))}")


def holds_photos(folder: Path) -> bool:
    """Say whether photos lie in a folder itself."""
    with contextlib.suppress(OSError):
        return any(is_photo(path) for path in itertools.islice(folder.iterdir(), MOST_LOOKED_AT))
    return False


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that may be classes or splits, sorted by name; what our commands wrote is not."""
    return [path for path in visible_folders(folder) if not is_ours(path)]


def is_ours(folder: Path) -> bool:
    """Say whether our commands wrote what lies in a folder: a run, a report, the doctor's, an export, plots.

    A folder with photos of other kinds than we write, or named as a split, is none.
    """
    if split_of(folder.name):
        return False
    try:
        names = os.listdir(folder)  # noqa: PTH208 -- names alone, of folders that may hold very many
    except OSError:
        return False  # the full search will report it
    pictures = [name for name in names if has_photo_suffix(name)]
    if any(name in OUR_FILES for name in names):
        return all(name.endswith(".png") for name in pictures)
    return bool(pictures) and all(map(PLOT.search, pictures))
