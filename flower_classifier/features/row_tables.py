"""Where the rows of one view are kept: in memory for this run, or in the cache on disk for later ones too.

Both kinds answer the same questions: which photos have no row yet, keep these rows, give the rows of those. The one on
disk also remembers which photos cannot be opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from flower_classifier.base.messages import note
from flower_classifier.features.feature_cache import FeatureCache, FeatureTable, MappedRows, PhotoKey
from flower_classifier.networks.frozen import RowForm
from flower_classifier.photos.splits import Split

Rows = torch.Tensor | MappedRows  # (N, ...)


class MemoryTable:
    """Rows of a view in memory, one for each photo of a split."""

    def __init__(self, number: int, form: RowForm) -> None:
        self.kept = torch.empty(number, *form.shape, dtype=form.dtype)

    def missing(self) -> set[int]:
        """Return the indices of the photos that have no row: all of them."""
        return set(range(len(self.kept)))

    def faults(self) -> dict[int, str]:
        """Return why photos cannot be opened, by index, as far as that is known: it is not."""
        return {}

    def keep(self, indices: Sequence[int], rows: torch.Tensor) -> None:
        """Keep the rows (B, ...) of some photos."""
        self.kept[indices] = rows

    def keep_faults(self, faults: Mapping[int, str]) -> None:
        """Keep nothing: another run will see for itself."""

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return the rows of some photos, all of which must be there."""
        return self.kept if len(indices) == len(self.kept) else self.kept[indices]


class DiskTable:
    """Rows of a view in a table of the cache, which is open."""

    def __init__(self, table: FeatureTable, photos: Sequence[PhotoKey]) -> None:
        self.table, self.photos = table, photos

    def missing(self) -> set[int]:
        """Return the indices of the photos that have no sound row."""
        return {index for index, place in enumerate(self.table.find(self.photos)) if place < 0}

    def faults(self) -> dict[int, str]:
        """Return why photos cannot be opened, by index, as far as that is known."""
        faults = self.table.faults
        return {index: faults[photo] for index, photo in enumerate(self.photos) if photo in faults}

    def keep(self, indices: Sequence[int], rows: torch.Tensor) -> None:
        """Append the rows (B, ...) of some photos."""
        self.table.append([self.photos[index] for index in indices], rows)

    def keep_faults(self, faults: Mapping[int, str]) -> None:
        """Append why photos cannot be opened, by index."""
        self.table.append_faults({self.photos[index]: fault for index, fault in faults.items()})

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return the rows of some photos, all of which must be there, mapped into memory."""
        return self.table.mapped([self.photos[index] for index in indices])


Table = MemoryTable | DiskTable


def memory_tables(split: Split, views: Sequence[int], form: RowForm) -> dict[int, Table]:
    """Return an empty table for each view."""
    return {view: MemoryTable(len(split), form) for view in views}


@contextlib.contextmanager
def disk_tables(
    cache: FeatureCache, photos: Sequence[PhotoKey], about: dict[int, dict[str, object]], form: RowForm
) -> Iterator[dict[int, Table]]:
    """Open the table of each view in `about`, which says what its numbers depend on beside the photos.

    Raises OSError where the cache cannot be used: no space, no permission, a file system without locks.
    """
    with contextlib.ExitStack() as stack:
        opened = {view: stack.enter_context(cache.table(key, form.shape, form.dtype)) for view, key in about.items()}
        yield {view: DiskTable(table, photos) for view, table in opened.items()}
    cache.evict()


def tell_found(split: Split, view: int, found: int) -> None:
    """Say how many rows of a view need not be computed."""
    if found:
        note(f"{split.spoken} photos, view {view}: {found:,} of {len(split):,} taken from the cache")
