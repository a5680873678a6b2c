"""Features on disk, a row a photo, so that the next run with another head starts training at once.

A table holds one view of what one network makes of photos. It is a folder of plain files:

- about.json: what the numbers depend on beside the photo (network, weights, preprocessing, view, seed, precision)
- rows.bin: the features, row after row, each of the same number of bytes; it is mapped into memory as it is
- index.txt: a line a row, in JSON: [row, CRC-32 of its bytes, the photo's size, its mtime in ns, its path]
- lock: held by the process that looks up and appends

A row counts only if its line is whole, the photo is as the line says, and the CRC-32 fits. So a changed photo, a torn
write and a flipped byte come to the same: the row is computed again, and appended. Nothing is ever changed in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import shutil
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import platformdirs
import torch
from filelock import FileLock, Timeout

from terminal import note

FORMAT = 1
RELEASE_AFTER = 16 * 2**20  # bytes read through the map, after which the pages are given back to the system

PhotoKey = tuple[str, int, int]  # absolute path, size in bytes, mtime in ns


def photo_key(path: Path) -> PhotoKey:
    """Return what tells that a photo is the same as before."""
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns


class MappedRows:
    """Rows of a table in a split's order, read through a memory map: what is resident does not grow with the data."""

    def __init__(self, path: Path, places: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.places = torch.tensor(places)  # (N,): where each photo's row lies in the file
        whole_rows = path.stat().st_size // (math.prod(shape) * dtype.itemsize)  # another run may be appending
        self.map = np.memmap(path, numpy_dtype(dtype), mode="r", shape=(whole_rows, *shape))
        self.read = 0

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return a copy of the chosen rows (B, ...)."""
        rows = torch.from_numpy(np.asarray(self.map[self.places[chosen].numpy()]))
        self.read += rows.nbytes
        if self.read > RELEASE_AFTER and hasattr(mmap, "MADV_DONTNEED"):
            self.map._mmap.madvise(mmap.MADV_DONTNEED)
            self.read = 0
        return rows


class FeatureTable:
    """One table, open for looking up and appending; a context manager that holds the table's lock."""

    def __init__(self, cache_dir: Path, about: dict[str, object], shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.about = {"format": FORMAT, **about, "shape": list(shape), "dtype": str(dtype)}
        text = json.dumps(self.about, sort_keys=True)
        self.folder = cache_dir / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self.shape, self.dtype = shape, dtype
        self.row_bytes = math.prod(shape) * dtype.itemsize
        self.appending = threading.Lock()

    def __enter__(self) -> FeatureTable:
        with contextlib.ExitStack() as stack:  # whatever fails on the way, the lock is given back
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                note("another run is computing the same features: waiting for it")
                lock.acquire()
            stack.callback(lock.release)
            (self.folder / "about.json").write_text(json.dumps(self.about, indent=2))  # its mtime says when last used
            (self.folder / "rows.bin").touch()
            self.rows = stack.enter_context((self.folder / "rows.bin").open("r+b"))
            self.index = stack.enter_context((self.folder / "index.txt").open("a+b"))
            self.entries = self.read_index()
            self.next_row = 1 + max((row for row, _ in self.entries.values()), default=-1)
            self.open_files = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_files.close()

    def read_index(self) -> dict[PhotoKey, tuple[int, int]]:
        """Map each photo to its row and CRC-32. Torn lines are passed over; of two for a photo the later counts."""
        self.index.seek(0)
        text = self.index.read()
        if text and not text.endswith(b"\n"):  # a process died in the middle of a line
            self.index.write(b"\n")
        entries = {}
        for line in text.splitlines():
            try:
                row, checksum, size, mtime, path = json.loads(line)
                entries[path, size, mtime] = int(row), int(checksum)
            except (ValueError, TypeError):
                continue
        return entries

    def find(self, photos: Sequence[PhotoKey]) -> list[int]:
        """Return the place of each photo's row, -1 where there is none, or none that is sound."""
        return [self.find_one(photo) for photo in photos]

    def find_one(self, photo: PhotoKey) -> int:
        """Return the place of a photo's row if its bytes are those that were written, else -1."""
        row, checksum = self.entries.get(photo, (-1, 0))
        if row < 0:
            return -1
        self.rows.seek(row * self.row_bytes)
        data = self.rows.read(self.row_bytes)
        return row if len(data) == self.row_bytes and zlib.crc32(data) == checksum else -1

    def append(self, photos: Sequence[PhotoKey], rows: torch.Tensor) -> None:
        """Write rows (B, ...), then the lines that make them count; any thread may."""
        with self.appending:
            lines = []
            self.rows.seek(self.next_row * self.row_bytes)
            for photo, row in zip(photos, rows.numpy(), strict=True):
                data = row.tobytes()
                self.rows.write(data)
                path, size, mtime = photo
                self.entries[photo] = self.next_row, zlib.crc32(data)
                lines.append(json.dumps([*self.entries[photo], size, mtime, path]) + "\n")
                self.next_row += 1
            self.rows.flush()
            self.index.write("".join(lines).encode())
            self.index.flush()

    def mapped(self, photos: Sequence[PhotoKey]) -> MappedRows:
        """Return the photos' rows, all of which must be there, in their order."""
        places = [self.entries[photo][0] for photo in photos]
        return MappedRows(self.folder / "rows.bin", places, self.shape, self.dtype)


class FeatureCache:
    """A folder of tables, kept below a size by dropping those used least recently."""

    def __init__(self, folder: Path | None, limit: float) -> None:
        self.folder = folder or Path(platformdirs.user_cache_dir("flower-classifier", appauthor=False))
        self.limit = limit  # bytes
        self.usable = True  # until it has turned out not to be
        self.used: set[Path] = set()

    def table(self, about: dict[str, object], shape: tuple[int, ...], dtype: torch.dtype) -> FeatureTable:
        """Return the table of these features, new or not."""
        table = FeatureTable(self.folder, about, shape, dtype)
        self.used.add(table.folder)
        return table

    def evict(self) -> None:
        """Drop the tables used least recently, but for those of this run, until the rest is within the limit."""
        with contextlib.suppress(FileNotFoundError):  # another run may be dropping tables too
            ages = {about.parent: about.stat().st_mtime for about in self.folder.glob("*/about.json")}
            sizes = {table: sum(file.stat().st_size for file in table.iterdir()) for table in ages}
            total = sum(sizes.values())
            for table in sorted(ages, key=ages.get):
                if total > self.limit and table not in self.used and drop_table(table):
                    total -= sizes[table]


def drop_table(folder: Path) -> bool:
    """Delete a table, unless a run is appending to it; say whether it went."""
    try:
        with FileLock(folder / "lock", timeout=0):
            (folder / "about.json").unlink()
            (folder / "index.txt").unlink()  # from here on no row counts, however far the deleting comes
            (folder / "rows.bin").unlink()
    except (Timeout, OSError):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Return numpy's name for a torch type."""
    return torch.empty(0, dtype=dtype).numpy().dtype
