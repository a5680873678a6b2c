"""Files inside tar files: a path may lead into one, as in train/flowers-000.tar/74/image_01191.jpg.

A tar file's headers are read once, to know where each file in it lies; a file is then read from its place.
"""

from __future__ import annotations

import errno
import os
import posixpath
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flower_classifier.base.errors import InputError
from flower_classifier.base.words import reason_of

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

ENDING = ".tar"  # those that are compressed have others: nothing can be read from the midst of them
CHUNK = 2**20  # bytes read at a time
LONGEST_CHAIN = 8  # links to links


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies in a tar file."""

    start: int  # bytes from the tar file's beginning
    size: int  # bytes


@dataclass(frozen=True)
class Status:
    """What the system knows of a file, and of a tar file for what lies in it."""

    size: int  # bytes: the file's own
    changed: tuple[int, int]  # mtime and ctime in ns


@dataclass(frozen=True)
class Contents:
    """What lies in a tar file, as it was when its headers were read."""

    status: Status  # of the tar file itself
    places: dict[str, Place]  # by name
    passed_over: tuple[str, ...]  # names that lead out of the tar file, and links to what is not in it


class DamagedTarError(InputError):
    """A tar file that cannot be read to its end."""


# ------------------------------------------------------------------------------------------------------------- reading


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
    """Return a path as it is, and for one that leads into a tar file its bytes, like an open file.

    Raises OSError, and DamagedTarError.
    """
    inside = split_path(path)
    return BytesIO(read_from(*inside)) if inside else path


def last_bytes(path: Path, number: int) -> bytes:
    """Return so many bytes of a file's end, or all where it has fewer. Raises OSError, and DamagedTarError."""
    if inside := split_path(path):
        return read_from(*inside, last=number)
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - number))
        return file.read()


def opened(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, and DamagedTarError."""
    file = file_of(path)
    return file.open("rb") if isinstance(file, Path) else file


def status_of(path: Path) -> Status:
    """Return a file's size and when it changed. Raises OSError, and DamagedTarError."""
    if inside := split_path(path):
        tar, name = inside
        contents = contents_of(tar)
        return Status(place_in(contents, tar, name).size, contents.status.changed)
    return status_from(path.stat())


def place_in(contents: Contents, tar: str, name: str) -> Place:
    """Return where a file of a tar file lies. Raises FileNotFoundError."""
    if name not in contents.places:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{tar}/{name}")
    return contents.places[name]


def read_from(tar: str, name: str, last: int | None = None) -> bytes:
    """Return the bytes of a file in a tar file, or its `last` ones. Raises OSError, and DamagedTarError."""
    with open(tar, "rb") as file:  # noqa: PTH123
        contents = contents_of(tar)
        if status_from(os.fstat(file.fileno())) != contents.status:
            raise OSError(errno.EBUSY, "the tar file is being replaced", tar)
        place = place_in(contents, tar, name)
        left_out = 0 if last is None else max(0, place.size - last)
        file.seek(place.start + left_out)
        return file.read(place.size - left_out)


def status_from(status: os.stat_result) -> Status:
    """Return what counts of what the system knows."""
    return Status(status.st_size, (status.st_mtime_ns, status.st_ctime_ns))


# ------------------------------------------------------------------------------------------------------------- headers

READ: dict[str, Contents | DamagedTarError] = {}  # by this process: a million headers take minutes
STATUSES: dict[str, Status] = {}  # of the tar files when they were read
READING = threading.Lock()  # so that several threads do not read the same headers


def contents_of(tar: str) -> Contents:
    """Return what lies in a tar file; one that has changed is read anew. Raises OSError, and DamagedTarError."""
    with READING:
        now = status_from(os.stat(tar))  # noqa: PTH116
        if STATUSES.get(tar) != now:
            READ[tar] = read_contents(tar, now)
            STATUSES[tar] = now
        contents = READ[tar]
    if isinstance(contents, DamagedTarError):
        raise DamagedTarError(str(contents))
    return contents


def read_contents(tar: str, status: Status) -> Contents | DamagedTarError:
    """Read the headers of a tar file: where its files lie, or what is wrong with it. Raises OSError.

    Of several files with one name the last counts, as where they are unpacked.
    """
    import tarfile  # here: hardly anybody needs it, and everybody would wait for it

    places: dict[str, Place] = {}
    links: dict[str, str] = {}
    outside = []
    try:
        with tarfile.open(tar, "r:") as headers:
            for header in headers:
                check_header(header)
                name = posixpath.normpath(header.name.lstrip("/"))
                if leads_out(name):
                    outside.append(header.name)
                elif header.isreg() and not header.issparse():
                    places[name] = Place(header.offset_data, header.size)
                elif header.islnk():
                    links[name] = posixpath.normpath(header.linkname.lstrip("/"))
                elif header.issym():
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), header.linkname))
                headers.members.clear()  # which it would keep, at a kilobyte each
            check_end(headers)
    except (tarfile.TarError, EOFError, ValueError, RecursionError, MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place that cannot be
            raise
        after = f"after {len(places):,} files" if places else "from its beginning"
        return DamagedTarError(f"{tar} is damaged {after} ({reason_of(error)}): make it anew")
    return Contents(status, places, (*outside, *follow(links, places)))


def check_header(header: TarInfo) -> None:
    """Raise ValueError for a header after which there is no way on: tarfile would go back, again and again."""
    if header.size < 0:
        raise ValueError("a file of negative size")


def check_end(headers: TarFile) -> None:
    """Raise ValueError unless zeros, and nothing else, follow the headers: tarfile takes any damage for the end."""
    headers.fileobj.seek(headers.offset)
    ends = False
    while chunk := headers.fileobj.read(CHUNK):
        if chunk.strip(b"\0"):
            raise ValueError("what follows is no header")
        ends = True
    if not ends:
        raise ValueError("it has no end mark")


def leads_out(name: str) -> bool:
    """Say whether a name is none that a file in a tar file can have below a folder, on this system."""
    return name.split("/", maxsplit=1)[0] == ".." or "\0" in name or (os.sep != "/" and os.sep in name)


def follow(links: dict[str, str], places: dict[str, Place]) -> list[str]:
    """Give links the places of what they lead to; return those that lead to nothing in the tar file."""
    lost = []
    for name in links:
        target = name
        for _ in range(LONGEST_CHAIN):
            target = links.get(target, target)
        if target in places:
            places[name] = places[target]
        else:
            lost.append(name)
    return lost
