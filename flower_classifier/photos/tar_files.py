"""Files inside tar files: a path may lead into one, as in train/flowers-000.tar/74/image_01191.jpg.

A tar file's headers are read once, to know where each file in it lies; a file is then read from its place.
"""

from __future__ import annotations

import os
import posixpath
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from flower_classifier.base.errors import InputError
from flower_classifier.base.words import reason_of

ENDING = ".tar"  # those that are compressed have others: nothing can be read from the midst of them


@dataclass(frozen=True)
class Place:
    """Where a file lies in a tar file."""

    start: int  # bytes from the tar file's beginning
    size: int  # bytes


@dataclass(frozen=True)
class Status:
    """What the system knows of a file, and of a tar file for what lies in it."""

    size: int  # bytes: the file's own
    changed: tuple[int, int]  # mtime and ctime in ns


class DamagedTarError(InputError):
    """A tar file that cannot be read to its end."""


@dataclass(frozen=True)
class Contents:
    """What lies in a tar file, as it was when its headers were read."""

    status: Status  # of the tar file itself
    places: dict[str, Place]  # by name, in their order


READ: dict[Path, Contents] = {}  # by this process: a million headers take minutes
READING = threading.Lock()  # so that several threads do not read the same headers


def contents_of(tar: Path) -> Contents:
    """Return what lies in a tar file; one that has changed is read anew. Raises OSError, and DamagedTarError."""
    now = plain_status(tar)
    with READING:
        if tar not in READ or READ[tar].status != now:
            READ[tar] = Contents(now, read_headers(tar))
        return READ[tar]


def split_path(path: Path) -> tuple[Path, str] | None:
    """Return the tar file that a path leads into, and the name in there; None for any other path."""
    text, mark = os.fspath(path), ENDING + os.sep
    end = text.rfind(mark)  # nearly never there
    while end >= 0:
        tar, name = text[: end + len(ENDING)], text[end + len(mark) :]
        if os.path.isfile(tar):  # noqa: PTH113 -- a Path of each takes its time
            return Path(tar), name.replace(os.sep, "/")
        end = text.rfind(mark, 0, end)
    return None


def place_in(contents: Contents, name: str) -> Place:
    """Return where a file of a tar file lies. Raises FileNotFoundError."""
    if name not in contents.places:
        raise FileNotFoundError(f"{name} is not in the tar file")
    return contents.places[name]


def read_part(tar: Path, place: Place) -> bytes:
    """Return the bytes of a file in a tar file."""
    with tar.open("rb") as file:
        file.seek(place.start)
        return file.read(place.size)


def file_of(path: Path) -> Path | BytesIO:
    """Return a path as it is, and for one that leads into a tar file its bytes, like an open file.

    Raises OSError, and DamagedTarError.
    """
    if inside := split_path(path):
        tar, name = inside
        return BytesIO(read_part(tar, place_in(contents_of(tar), name)))
    return path


def opened(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, and DamagedTarError."""
    file = file_of(path)
    return file.open("rb") if isinstance(file, Path) else file


def status_of(path: Path) -> Status:
    """Return a file's size and when it changed. Raises OSError, and DamagedTarError."""
    if inside := split_path(path):
        tar, name = inside
        contents = contents_of(tar)
        return Status(place_in(contents, name).size, contents.status.changed)
    return plain_status(path)


def plain_status(path: Path) -> Status:
    """Return the size of what is a file of its own, and when it changed."""
    status = path.stat()
    return Status(status.st_size, (status.st_mtime_ns, status.st_ctime_ns))


def read_headers(tar: Path) -> dict[str, Place]:
    """Map the names of the regular files in a tar file to their places, in their order.

    Of several files with one name the last counts, as where they are unpacked. Names that lead out of the tar file are
    passed over.
    """
    import tarfile  # here: hardly anybody needs it, and everybody would wait for it

    places: dict[str, Place] = {}
    try:
        with tarfile.open(tar, "r:") as headers:
            for header in headers:
                name = posixpath.normpath(header.name)
                if header.isreg() and not header.issparse() and not name.startswith(("/", "..")):
                    places.pop(name, None)
                    places[name] = Place(header.offset_data, header.size)
                headers.members.clear()  # which it would keep, at a kilobyte each
            headers.fileobj.seek(headers.offset)
            if headers.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("what follows is no header")  # tarfile takes it for the end
    except (tarfile.TarError, EOFError, ValueError) as error:
        after = f"after {len(places):,} files" if places else "from its beginning"
        raise DamagedTarError(f"{tar} is damaged {after} ({reason_of(error)}): make it anew") from None
    return places
