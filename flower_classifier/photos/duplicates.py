"""Photos that lie in a data folder more than once, byte for byte: they make an accuracy a lie, or a label wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.console import warn
from flower_classifier.base.text import counted, first_few
from flower_classifier.photos.tar_files import last_bytes, opened, status_of

if TYPE_CHECKING:
    from flower_classifier.photos.splits import Split, Splits

TAIL = 4096  # bytes at a file's end, in which nearly all photos of the same size differ


@dataclass(frozen=True)
class Place:
    """Where a photo lies."""

    split: Split
    index: int  # in the split

    @property
    def photo(self) -> str:
        """The path below the data folder."""
        return self.split.photos[self.index]

    @property
    def label(self) -> int:
        """The class that the folder says."""
        return self.split.labels[self.index]

    @property
    def path(self) -> Path:
        """The file."""
        return self.split.root / self.photo


def warn_of_copies(splits: Splits) -> None:
    """Warn of photos that are in two splits, or of two classes."""
    parts = [split for split in (splits.train, splits.valid, splits.test) if split]
    copies = alike([Place(split, index) for split in parts for index in range(len(split))])
    for split, other in ((splits.valid, splits.train), (splits.test, splits.train), (splits.test, splits.valid)):
        if split and (shared := [place for group in copies for place in in_both(group, split, other)]):
            are = f"is a {other.spoken} photo" if len(shared) == 1 else f"are {other.spoken} photos"
            warn(
                f"{counted(len(shared), f'{split.spoken} photo')} of {len(split):,} {are} too "
                f"({named(shared)}): the {split.spoken} accuracy will look better than it is"
            )
    if torn := [place for group in copies if len({place.label for place in group}) > 1 for place in group]:
        warn(f"{counted(len(torn), 'photo')} lie under more than one class ({named(torn)}): keep one copy of each")


def in_both(group: Iterable[Place], split: Split, other: Split) -> list[Place]:
    """Return the places of the same photo that are in a split, if it is in the other one too."""
    return [place for place in group if place.split is split] if any(place.split is other for place in group) else []


def named(places: Iterable[Place]) -> str:
    """Name the first few photos."""
    return first_few(sorted(place.photo for place in places))


def alike(places: list[Place]) -> list[list[Place]]:
    """Return the groups of places with the same bytes. What is costly to know is asked only where the rest is equal."""
    groups = [places]
    for known_by in (size, tail, contents):
        groups = [same for group in groups for same in divided(group, known_by) if len(same) > 1]
    return groups


def divided(group: Iterable[Place], known_by: Callable[[Path], Hashable]) -> Iterable[list[Place]]:
    """Divide a group by what is known of each file. One that is empty, or cannot be read, is like no other."""
    parts: dict[Hashable, list[Place]] = {}
    for place in group:
        try:
            known = known_by(place.path)
        except OSError:  # which opening the photo will report
            known = None
        if known:
            parts.setdefault(known, []).append(place)
    return parts.values()


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
