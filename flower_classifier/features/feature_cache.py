"""Features on disk, one row per photo, so that the next run with another head starts training at once.

A table holds one view of what one network makes of the photos of one data folder. It is a folder of plain files:

- about.json: what the numbers depend on beside the photo (network, weights, preprocessing, view, seed, device, ...)
- rows.bin: the features, row after row, each of the same number of bytes; it is mapped into memory as it is
- index.txt: one line per row, in JSON: [row, CRC-32 of its bytes, and the photo's name, size, mtime and ctime in ns],
  and behind them what is wrong with a damaged photo that was opened all the same;
  a photo that cannot be opened has [-1, CRC-32 of the reason, the same four, the reason], so that it is not tried again

Whoever looks up, appends or drops holds a lock of the same name beside the folder. A row counts only if its line is
whole, the photo is as the line says, and the CRC-32 fits. So a changed photo, a torn write and a flipped byte come to
the same: the row is computed again, and appended. Nothing is ever changed in place.

Without a cache the rows are in memory. A table there does the same for the photos of a split: it says which have no row
yet, keeps rows, and gives them back. The cache also remembers which photos cannot be opened.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import platformdirs
import torch
from filelock import FileLock, Timeout

from flower_classifier.base.files import digest_of
from flower_classifier.base.messages import note
from flower_classifier.networks.frozen_backbone import RowForm
from flower_classifier.photos.splits import PhotoKey

TABLES = "features-v1"  # the folder in --cache_dir that is ours; another form of tables gets another name
FILES = ("index.txt", "rows.bin", "about.json")  # of a table, in the order in which they may be deleted
RELEASE_AFTER = 16 * 2**20  # bytes made resident by reading, after which the pages are given back to the system
ROWS_AT_A_TIME = 1_024  # that are changed for a learner
MOST_HELD = 10**9  # bytes of such rows of all views; of more, those of a batch are computed when it is its turn
READ_AHEAD = 64 * 2**10  # bytes that the system maps around a page that is read
NO_DAMAGES: Mapping[int, str] = {}


class MappedRows:
    """Rows of a table in a split's order, read through a memory map: what is resident does not grow with the data."""

    def __init__(self, file: BinaryIO, positions: Sequence[int], form: RowForm) -> None:
        self.places = torch.tensor(positions, dtype=torch.int64)  # (N,): where each photo's row lies in the file
        shape, stored = (max(positions, default=-1) + 1, *form.shape), as_stored(torch.empty(0, dtype=form.dtype)).dtype
        self.map = np.memmap(file, stored, mode="r", shape=shape) if positions else np.empty(shape, stored)
        self.dtype, self.row_bytes, self.read = form.dtype, math.prod(form.shape) * form.dtype.itemsize, 0

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return a copy of the rows (B, ...) at this index."""
        rows = torch.from_numpy(np.asarray(self.map[self.places[index].numpy()]))
        self.read += len(rows) * max(self.row_bytes, READ_AHEAD)
        if self.read > RELEASE_AFTER and hasattr(mmap, "MADV_DONTNEED"):
            self.map._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]  # numpy's types leave it out
            self.read = 0
        return rows.view(self.dtype)


class FeatureTable:
    """One table, open for looking up and appending the rows of `photos`; a context manager that holds its lock.

    Entering it raises OSError where the cache cannot be used: no space, no permission, a file system without locks.
    """

    def __init__(self, cache_dir: Path, about: dict[str, object], form: RowForm, photos: Sequence[PhotoKey]) -> None:
        self.about = {**about, "shape": list(form.shape), "dtype": str(form.dtype)}
        self.folder = cache_dir / TABLES / digest_of([json.dumps(self.about, sort_keys=True)])
        self.form, self.photos = form, photos
        self.row_bytes = math.prod(form.shape) * form.dtype.itemsize

    def __enter__(self) -> FeatureTable:
        with contextlib.ExitStack() as stack:  # whatever fails on the way, the lock is given back
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = lock_of(self.folder)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                note("another run is computing the same features: waiting for it")
                lock.acquire()
            except NotImplementedError as error:
                raise OSError("this file system has no locks") from error
            stack.callback(lock.release)
            self.folder.mkdir(exist_ok=True)
            (self.folder / "about.json").write_text(json.dumps(self.about, indent=2))  # its mtime says when last used
            (self.folder / "rows.bin").touch()
            self.row_file = stack.enter_context((self.folder / "rows.bin").open("r+b"))
            self.index_file = stack.enter_context((self.folder / "index.txt").open("a+b"))
            self.next_row = -(-self.row_file.seek(0, os.SEEK_END) // self.row_bytes)  # behind whatever is there
            self.entries: dict[PhotoKey, tuple[int, int]] = {}  # row, CRC-32
            self.reasons: dict[PhotoKey, str] = {}  # why a photo cannot be opened
            self.damage_of: dict[PhotoKey, str] = {}  # what is wrong with a damaged photo that has a row
            self.read_index()
            self.open_files = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_files.close()

    def read_index(self) -> None:
        """Fill the entries and the reasons. Torn lines are passed over; of two for a photo the later counts."""
        self.index_file.seek(0)
        text = self.index_file.read()
        if text and not text.endswith(b"\n"):  # a process died in the middle of a line
            self.index_file.write(b"\n")
        for line in text.splitlines():
            try:
                row, checksum, *rest = json.loads(line)
            except (ValueError, TypeError):
                continue
            photo, texts = tuple(rest[:4]), rest[4:]  # a text: of its damage, or why it cannot be opened
            if [type(value) for value in (row, checksum, *photo)] != [int, int, str, int, int, int]:
                continue
            if 0 <= row < self.next_row and all(type(value) is str for value in texts):
                self.entries[photo] = row, checksum
                self.damage_of.pop(photo, None)
                if texts:
                    self.damage_of[photo] = texts[0]
            elif [type(value) for value in texts] == [str] and checksum_of(texts[0]) == checksum:
                self.reasons[photo] = texts[0]

    def missing(self) -> set[int]:
        """Return the indices of the photos that have no row, or none that is sound."""
        return {index for index, photo in enumerate(self.photos) if not self.has_row(photo)}

    def has_row(self, photo: PhotoKey) -> bool:
        """Say whether a photo has a row whose bytes are those that were written."""
        row, checksum = self.entries.get(photo, (-1, 0))
        if row < 0:
            return False
        self.row_file.seek(row * self.row_bytes)
        data = self.row_file.read(self.row_bytes)
        return len(data) == self.row_bytes and zlib.crc32(data) == checksum

    def faults(self) -> dict[int, str]:
        """Return, by index, why photos cannot be opened, as far as an earlier run has found out."""
        return {index: self.reasons[photo] for index, photo in enumerate(self.photos) if photo in self.reasons}

    def damages(self) -> dict[int, str]:
        """Return, by index, what is wrong with damaged photos that have a row."""
        return {index: self.damage_of[photo] for index, photo in enumerate(self.photos) if photo in self.damage_of}

    def keep(self, indices: Sequence[int], rows: torch.Tensor, damages: Mapping[int, str] = NO_DAMAGES) -> None:
        """Append the rows (B, ...) of some photos, then the lines that make them count.

        `damages`: by index, what is wrong with those of them that are damaged.
        """
        lines = []
        self.row_file.seek(self.next_row * self.row_bytes)
        for index, row in zip(indices, as_stored(rows), strict=True):
            photo, data = self.photos[index], row.tobytes()
            self.row_file.write(data)
            self.entries[photo] = self.next_row, zlib.crc32(data)
            wrong = [damages[index]] if index in damages else []
            lines.append(json.dumps([*self.entries[photo], *photo, *wrong]) + "\n")
            self.next_row += 1
        self.row_file.flush()
        self.index_file.write("".join(lines).encode())
        self.index_file.flush()

    def keep_faults(self, faults: Mapping[int, str]) -> None:
        """Append why photos cannot be opened, by index."""
        lines = []
        for index, fault in faults.items():
            self.reasons[self.photos[index]] = fault
            lines.append(json.dumps([-1, checksum_of(fault), *self.photos[index], fault]) + "\n")
        self.index_file.write("".join(lines).encode())
        self.index_file.flush()

    def rows(self, indices: Sequence[int]) -> MappedRows:
        """Return the rows of some photos, all of which must be there, mapped into memory."""
        return MappedRows(self.row_file, [self.entries[self.photos[index]][0] for index in indices], self.form)


class FeatureCache:
    """A folder of tables, kept below a size by dropping those used least recently."""

    def __init__(self, folder: Path | None, limit: float) -> None:
        self.folder = folder or Path(platformdirs.user_cache_dir("flower-classifier", appauthor=False))
        self.limit = limit  # bytes
        self.usable = True  # until it has turned out not to be
        self.used: set[Path] = set()

    @classmethod
    def opened(cls, folder: Path | None, limit: float, quiet: bool = False) -> FeatureCache | None:
        """Return a cache in a folder, or in the user's; None, with a note, where the system knows of no such folder."""
        try:
            return cls(folder, limit)
        except RuntimeError:  # of platformdirs, where there is no HOME and the user has no name
            if not quiet:
                note("no home folder is known: going on without the feature cache; --cache_dir DIR is one anywhere")
            return None

    def table(self, about: dict[str, object], form: RowForm, photos: Sequence[PhotoKey]) -> FeatureTable:
        """Return the table of these photos' features, new or not; the numbers depend on what is in `about`, too."""
        table = FeatureTable(self.folder, about, form, photos)
        self.used.add(table.folder)
        return table

    def evict(self) -> None:
        """Drop the tables used least recently until the rest is within the limit; those of this run are exempt."""
        ages, sizes = {}, {}
        for table in (self.folder / TABLES).glob("?" * 32):
            with contextlib.suppress(OSError):  # another run may be dropping it too
                files = [table / name for name in FILES if (table / name).exists()]
                sizes[table] = sum(file.stat().st_size for file in files)
                ages[table] = max((file.stat().st_mtime for file in files), default=0.0)
        total = sum(sizes.values())
        for table in sorted(ages, key=ages.__getitem__):
            if total > self.limit and table not in self.used and drop_table(table):
                total -= sizes[table]


def drop_table(folder: Path) -> bool:
    """Delete a table's files, unless a run is using its lock; say whether they went."""
    try:
        with lock_of(folder).acquire(timeout=0):
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
    except (Timeout, OSError, NotImplementedError):
        return False
    return True


def lock_of(folder: Path) -> FileLock:
    """Return a table's lock. Its file is never deleted: else two processes could hold locks of the same name."""
    return FileLock(folder.with_suffix(".lock"))


def checksum_of(fault: str) -> int:
    """Return the CRC-32 of a reason."""
    return zlib.crc32(fault.encode("utf-8", "backslashreplace"))


def as_stored(rows: torch.Tensor) -> np.ndarray:
    """Return rows in the type that the file holds: numpy has no bfloat16, so its bits go as 16-bit integers."""
    return rows.view(torch.int16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


# ----------------------------------------------------------------------------------------------------------- in memory


class MemoryTable:
    """Rows of a view in memory, one for each photo of a split."""

    def __init__(self, count: int, form: RowForm) -> None:
        self.kept = torch.empty(count, *form.shape, dtype=form.dtype)

    def missing(self) -> set[int]:
        """Return the indices of the photos that have no row: all of them."""
        return set(range(len(self.kept)))

    def faults(self) -> dict[int, str]:
        """Return the known faults by index. Memory keeps none."""
        return {}

    def damages(self) -> dict[int, str]:
        """Return the known damages by index. Memory keeps none."""
        return {}

    def keep(self, indices: Sequence[int], rows: torch.Tensor, damages: Mapping[int, str] = NO_DAMAGES) -> None:
        """Keep the rows (B, ...) of some photos."""
        self.kept[indices] = rows

    def keep_faults(self, faults: Mapping[int, str]) -> None:
        """Keep nothing: another run will see for itself."""

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the rows of some photos, all of which must be there."""
        return self.kept if len(indices) == len(self.kept) else self.kept[indices]


class LearnerRows:
    """Rows of a table as a learner takes them, float32: computed once where they have room, else when they are read.

    `views`: how many views there will be of as many rows.
    """

    def __init__(self, rows: Rows, change: Callable[[torch.Tensor], torch.Tensor], views: int) -> None:
        self.rows, self.change = rows, change
        self.held: torch.Tensor | None = None
        blocks = torch.arange(len(rows)).split(ROWS_AT_A_TIME)
        if len(rows) and rows[blocks[0][:1]].numel() * 4 * len(rows) * views <= MOST_HELD:
            self.held = torch.cat([self.change(rows[block].float()) for block in blocks])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        """Return a copy of the rows (B, D) at this index (B,)."""
        return self.change(self.rows[index].float()) if self.held is None else self.held[index]


Table = MemoryTable | FeatureTable
Rows = torch.Tensor | MappedRows | LearnerRows  # (N, ...)
