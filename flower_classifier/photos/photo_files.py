"""A photo's bytes, in a file of its own or inside a tar file: a path may lead into one.

train/74/image_01191.jpg
train/flowers-000.tar/74/image_01191.jpg
"""

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from flower_classifier.photos.tar_index import ENDING, Status, extent_in, index_of, read_from, status_of_file


def split_path(path: Path) -> tuple[str, str] | None:
    """Return the tar file that a path leads into, and the name in there; None for any other path."""
    text, mark = os.fspath(path), ENDING + os.sep
    end = text.rfind(mark)  # nearly never there
    while end >= 0:
        tar, name = text[: end + len(ENDING)], text[end + len(mark) :]
        if os.path.isfile(tar):  # noqa: PTH113 -- a Path of each takes its time
            return tar, name.replace(os.sep, "/")
        end = text.rfind(mark, 0, end)
    return None


def file_of(path: Path) -> Path | BytesIO:
    """Return a path as it is, or for one that leads into a tar file the bytes there, to be read like an open file.

    Raises OSError, and InputError for a damaged tar file.
    """
    inside = split_path(path)
    return BytesIO(read_from(*inside)) if inside else path


def opened(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, and InputError for a damaged tar file."""
    file = file_of(path)
    return file.open("rb") if isinstance(file, Path) else file


def last_bytes(path: Path, number: int) -> bytes:
    """Return so many bytes of a file's end, or all where it has fewer.

    Raises OSError, and InputError for a damaged tar file.
    """
    if inside := split_path(path):
        return read_from(*inside, last=number)
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - number))
        return file.read()


def status_of(path: Path) -> Status:
    """Return a file's size and when it changed: the tar file, for what lies in one.

    Raises OSError, and InputError for a damaged tar file.
    """
    if inside := split_path(path):
        tar, name = inside
        return replace(status_of_file(tar), size=extent_in(index_of(tar), tar, name).size)
    return status_of_file(path)
