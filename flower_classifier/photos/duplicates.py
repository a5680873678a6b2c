"""Photos that are the same, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from flower_classifier.photos.tar_files import last_bytes, opened, status_of

TAIL = 4096  # bytes at a file's end: nearly all photos of the same size differ in them


class HasPath(Protocol):
    """Anything with a file."""

    @property
    def path(self) -> Path:
        """The file, which may lie in a tar file."""


Photo = TypeVar("Photo", bound=HasPath)


def alike(photos: list[Photo]) -> list[list[Photo]]:
    """Return the groups of photos with the same bytes. A costly key is computed only if the cheaper are equal."""
    groups = [photos]
    for key_of in (size, tail, contents):
        groups = [same for group in groups for same in divided(group, key_of) if len(same) > 1]
    return groups


def divided(group: Iterable[Photo], key_of: Callable[[Path], Hashable]) -> Iterable[list[Photo]]:
    """Divide a group by the key of each file. A file that is empty, or cannot be read, is like no other."""
    by_key: dict[Hashable, list[Photo]] = {}
    for photo in group:
        try:
            key = key_of(photo.path)
        except OSError:  # which opening the photo will report
            key = None
        if key:
            by_key.setdefault(key, []).append(photo)
    return by_key.values()


def size(path: Path) -> int:
    """Return how many bytes a file has."""
    return status_of(path).size


def tail(path: Path) -> bytes:
    """Return a file's last bytes."""
    return last_bytes(path, TAIL)


def contents(path: Path) -> bytes:
    """Return a digest of a file's bytes."""
    with opened(path) as file:
        return hashlib.blake2b(file.read(), digest_size=16).digest()
