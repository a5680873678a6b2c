"""The photos that a call of predict.py names, and the pictures that it draws of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from flower_classifier.base.console import note
from flower_classifier.base.errors import InputError
from flower_classifier.base.files import check_writable
from flower_classifier.base.text import counted
from flower_classifier.photos.folders import find_photos, is_shard, photos_in, shards_of

STDIN = Path("-")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")  # what matplotlib writes and people open


# ------------------------------------------------------------------------------------------------------------ photos


class NoPhotosError(InputError):
    """A folder, or standard input, that was named rightly but holds no photo."""


def find_named(paths: Sequence[Path], null: bool) -> list[Path]:
    """Return the photos that paths name, in order: those in a folder or a tar file, and for "-" those that stdin names.

    `null`: paths on stdin end in a NUL. Raises NoPhotosError for a folder, a tar file or a standard input without
    photos, InputError for a damaged tar file, and OSError for one that cannot be read.
    """
    photos: list[Path] = []
    for path in paths:
        for named in read_paths(null) if path == STDIN else [path]:
            photos += photos_of(named)
    return photos


def photos_of(path: Path) -> list[Path]:
    """Return the photos in a folder or a tar file; any other path is itself a photo. Raises NoPhotosError for none."""
    if os.path.isdir(path):  # noqa: PTH112 -- Path.is_dir() may raise
        photos, tars = find_photos(path), shards_of(path)
        if photos and tars:
            note(
                f"{path}: {counted(len(tars), 'tar file')} beside the photos left out: name them to have them answered"
            )
        photos = photos or [tar / name for tar in tars for name in photos_in(tar)]
    elif is_shard(path):
        photos = [path / name for name in photos_in(path)]
    else:
        return [path]
    if not photos:
        raise NoPhotosError(f"there are no photos below {path}")
    return photos


def read_paths(null: bool) -> list[Path]:
    """Read paths from stdin: one per line, or with `null` each ended by a NUL, as `find -print0` writes them."""
    if sys.stdin is None:
        raise InputError("-: there is no standard input to read paths from")
    if sys.stdin.isatty():
        note("reading paths of photos from the terminal, one per line; Ctrl-D ends them")
    lines = sys.stdin.buffer.read().split(b"\0" if null else b"\n")
    paths = [Path(os.fsdecode(line if null else line.removesuffix(b"\r"))) for line in lines if line.strip()]
    if not paths:
        raise NoPhotosError("-: standard input names no photo")
    return paths


# ---------------------------------------------------------------------------------------------------------- pictures


def plan_pictures(plot: Path, photos: Sequence[Path], inputs: Iterable[Path]) -> list[Path]:
    """Return the picture of each photo: the file `plot`, or in the folder `plot` one of the photo's own path and name.

    Raises InputError, before any work, where no picture can be drawn or written, or where one would overwrite a photo
    or one of the other `inputs` that it is drawn from.
    """
    if not is_folder(plot, photos):
        check_picture_path(plot)
        pictures = [plot]
    elif plot.is_file():
        raise InputError(f"{plot} is a file; for several photos name a folder", "plot")
    else:
        absolute = [Path(os.path.abspath(photo)) for photo in photos]  # noqa: PTH100 -- without any ".."
        shared = os.path.commonpath([photo.parent for photo in absolute])
        pictures = [plot / photo.parent.relative_to(shared) / f"{photo.name}.png" for photo in absolute]
    sources = {os.path.realpath(path) for path in (*photos, *inputs)}
    if any(os.path.realpath(picture) in sources for picture in pictures):
        raise InputError(f"{plot} would overwrite what it is drawn from", "plot")
    for folder in dict.fromkeys(picture.parent for picture in pictures):
        check_writable(folder, "plot")
    if any(os.path.exists(picture) and not os.access(picture, os.W_OK) for picture in pictures):  # noqa: PTH110 -- Path.exists() may raise
        raise InputError(f"{plot} cannot be overwritten: it may only be read", "plot")
    return pictures


def is_folder(plot: Path, photos: Sequence[Path]) -> bool:
    """Say whether `plot` names a folder: one that holds a picture for each of several photos."""
    return len(photos) > 1 or plot.is_dir() or not plot.suffix


def check_picture_path(path: Path) -> None:
    """Raise InputError for a file whose ending names none of the formats for pictures."""
    if path.suffix.lower() not in PICTURE_ENDINGS:
        endings = f"{', '.join(PICTURE_ENDINGS[:-1])} or {PICTURE_ENDINGS[-1]}"
        raise InputError(f"{path}: the name should end in {endings}", "plot")
