"""Which photo a table means: a path from some folder on, with or without the photo's ending.

A table says `cat/1.jpg`, `1.jpg` or `1`, and photos lie in photos/train/cat/. So the folders are counted that lead to a
photo, and one of them is taken for all rows: `1` is never one row's train/1.jpg and the next row's test/1.jpg.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flower_classifier.base.messages import InputError, first_few, printable, reason_of
from flower_classifier.photos.folders import SPLIT_NAMES, has_photo_suffix, split_of
from flower_classifier.photos.tables import as_written

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # https://…, s3://…
DRIVE = re.compile(r"[A-Za-z]:[\\/]")  # of an absolute path of Windows


@dataclass(frozen=True)
class Match:
    """The photos that a column of a table names."""

    photos: list[str | None]  # of each row, below the data folder; None: there is none
    base: str = ""  # the folder below the data folder that paths are taken from

    @property
    def count(self) -> int:
        """How many rows have a photo."""
        return sum(photo is not None for photo in self.photos)


class PhotoLookup:
    """The photos of a data folder, by the ends of their paths."""

    def __init__(self, data_dir: Path, photos: Sequence[str], default_split: str | None) -> None:
        self.data_dir = data_dir
        self.default_split = default_split  # of tables that say none
        self.folders: dict[tuple[Path, str], str | None] = {}  # what folder_below has answered: tables name few folders
        # Photos by their name in small letters, and by that without its ending; each with its path so written
        self.by_name: dict[str, list[tuple[str, str]]] = {}
        for photo in photos:
            whole = as_written(photo).casefold()
            for path in (whole, posixpath.splitext(whole)[0]) if has_photo_suffix(whole) else (whole,):
                self.by_name.setdefault(path.rpartition("/")[2], []).append((photo, path))

    def match_by_split(self, cells: Sequence[str], table: Path, split: Sequence[str] | str | None) -> Match:
        """Find the photo of each cell. `split`: that of each cell, or of all of them; None or "" where it is open.

        Each split may have a folder of its own. Raises InputError as `match` does.
        """
        if split is None or isinstance(split, str):
            return self.match(cells, table, split)
        photos: list[str | None] = [None] * len(cells)
        bases = set()
        for name in dict.fromkeys(split):
            indices = [index for index, other in enumerate(split) if other == name]
            match = self.match([cells[index] for index in indices], table, name)
            bases.add(match.base)
            for index, photo in zip(indices, match.photos, strict=True):
                photos[index] = photo
        return Match(photos, bases.pop() if len(bases) == 1 else "")

    def match(self, cells: Sequence[str], table: Path, split: str | None) -> Match:
        """Find the photo of each cell: in the folders of `split`, or of none, where that is given and has a folder.

        Raises InputError for addresses of the web, and where several photos or folders fit equally well.
        """
        if address := next((cell for cell in cells if ADDRESS.match(cell)), None):
            raise InputError(f"{table}: {reason_of(address)} is an address: download the photos, and give their paths")
        folder = self.folder_below(table.absolute().parent)
        fits = [self.fits(cell, table, is_outside=folder is None) for cell in cells]
        if split and any(splits_of(base) == {split} for fit in fits for base in fit):
            fits = [{base: photo for base, photo in fit.items() if splits_of(base) <= {split}} for fit in fits]
        counts = Counter(base for fit in fits for base in fit if base is not None)
        unclear = [cell for cell, fit in zip(cells, fits, strict=True) if len(fit) > 1]
        if not unclear:
            return Match(
                [next(iter(fit.values()), None) for fit in fits], next(iter(counts)) if len(counts) == 1 else ""
            )
        base = self.likeliest(counts, folder, table, split)
        if base is None:
            where = first_few([f"{base}/" for base, _ in counts.most_common()])
            advice = f"give one of these folders, or write paths from {self.data_dir} on"
            raise InputError(f"{table}: {printable(unclear[0])} may lie in {where}: {advice}")
        return Match([fit.get(None, fit.get(base)) for fit in fits], base)

    def likeliest(self, counts: Counter[str], folder: str | None, table: Path, split: str | None) -> str | None:
        """Return the folder that paths are taken from, of those that lead to `counts` photos; None where it is open.

        That is the table's own `folder`, else that of its split: one in which a photo is missing is not left for
        another with photos of the same names.
        """
        if folder and folder in counts:
            return folder
        words = re.split(r"[\W\d_]+", table.stem.lower())
        by_name = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        likely = split or (by_name.pop() if len(by_name) == 1 else self.default_split)
        if likely and (of_split := [base for base in counts if splits_of(base) == {likely}]):
            counts = Counter({base: counts[base] for base in of_split})
        elif len({name for base in counts for name in splits_of(base)}) > 1:
            return None
        if 2 * counts[""] >= max(counts.values()):
            return ""
        best = [base for base, count in counts.items() if count == max(counts.values())]
        named = [base for base in best if base.rpartition("/")[2] == table.stem]
        return best[0] if len(best) == 1 else named[0] if named else None

    def fits(self, cell: str, table: Path, is_outside: bool) -> dict[str | None, str]:
        """Map each folder from which a cell's path leads to a photo to that photo. `is_outside`: so the table lies.

        A path is whole, and its folder None, if it is absolute, or leads into the data folder from a table outside.
        """
        for text in dict.fromkeys((cell, cell.strip(), cell.strip().replace("\\", "/"))):
            is_absolute = text.startswith("/") or bool(DRIVE.match(text))
            leads_up = ".." in text.split("/")
            starts = [table.absolute().parent] if is_absolute or is_outside or leads_up else []
            for start in [*starts, self.data_dir] if leads_up else starts:
                below = self.below(start, text)
                if below and (photo := self.ending_in(below, table).get("")):
                    return {None: photo}
            if not is_absolute and (fit := self.ending_in(posixpath.normpath(text), table)):
                return fit
        return {}

    def ending_in(self, path: str, table: Path) -> dict[str | None, str]:
        """Map each folder from which a path leads to a photo to that photo.

        Upper and lower case, and an ending that the path leaves out, make no difference. Raises InputError where that
        leaves a choice.
        """
        exact, depth = as_written(path), path.count("/")
        tail = exact.casefold()
        by_base: dict[str, list[str]] = {}
        for photo, lowered in self.by_name.get(tail.rpartition("/")[2], []):
            if lowered == tail or lowered.endswith(f"/{tail}"):
                by_base.setdefault("/".join(photo.split("/")[: -depth - 1]), []).append(photo)
        chosen: dict[str | None, str] = {}
        for base, photos in by_base.items():
            same = photos if len(photos) == 1 else [photo for photo in photos if as_written(photo).endswith(exact)]
            if len(same) != 1:
                names = " and ".join(printable(photo) for photo in sorted(photos))
                raise InputError(f"{table}: {printable(path)} may be {names}: write the photo's whole name")
            chosen[base] = same[0]
        return chosen

    def below(self, start: Path, text: str) -> str | None:
        """Return a file's path as from the data folder on, with "/"; None for one outside of it."""
        folder, slash, name = text.rpartition("/")
        if (start, folder) not in self.folders:
            self.folders[start, folder] = self.folder_below(start / f"{folder}{slash}")
        inner = self.folders[start, folder]
        return inner if inner is None else f"{inner}/{name}".lstrip("/")

    def folder_below(self, folder: Path) -> str | None:
        """Return a folder as from the data folder on, with "/" and "" for itself; None for one outside of it."""
        for normal in (os.path.abspath, os.path.realpath):  # without and with links followed
            with contextlib.suppress(ValueError):
                below = Path(normal(folder)).relative_to(normal(self.data_dir)).as_posix()
                return "" if below == "." else below
        return None


def splits_of(base: str | None) -> set[str]:
    """Return the splits that a folder, and those that it lies in, are called by."""
    return {split for folder in (base or "").split("/") if (split := split_of(folder))}
