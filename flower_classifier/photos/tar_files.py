"""A photo's bytes, in a file of its own or inside a tar file: a path may lead into one.

    train/74/image_01191.jpg
    train/flowers-000.tar/74/image_01191.jpg

A tar file's headers are read once; a file in it is then read directly from its position.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flower_classifier.base.messages import InputError, counted, reason_of

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo


ENDING = ".tar"  # or .TAR; not of compressed ones: they cannot be read from the middle
LEADS_IN = re.compile(f"{re.escape(ENDING)}(?={re.escape(os.sep)})", re.IGNORECASE)
PACKERS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
CHUNK = 2**20  # bytes read at a time
MOST_ZEROS = 2**21  # bytes at the end, which fill up a record: of 10 kB as a rule, of a megabyte at most
LONGEST_CHAIN = 8  # links to links


@dataclass(frozen=True)
class Status:
    """What the system knows of a file."""

    size: int  # bytes
    changed: tuple[int, int]  # mtime and ctime in ns


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one member's bytes lie in the tar file."""

    start: int  # bytes from the tar file's beginning
    size: int  # bytes


@dataclass(frozen=True)
class TarIndex:
    """What lies in a tar file."""

    tar: str  # its path
    extents: dict[str, Extent]  # by name
    passed_over: tuple[str, ...]  # what cannot be read: names outside, links to nothing, sparse files

    def extent(self, name: str) -> Extent:
        """Return where a file lies in the tar file. Raises FileNotFoundError."""
        if name not in self.extents:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.tar}/{name}")
        return self.extents[name]


class DamagedTarError(InputError):
    """A tar file that cannot be read to its end."""


# Indexes that this process has read, with the tar file's status then: a million headers take minutes
READ: dict[str, tuple[Status, TarIndex | DamagedTarError]] = {}
READING = threading.Lock()  # so that several threads do not read the same headers


def is_tar_name(name: str) -> bool:
    """Say whether a file's name is that of a tar file."""
    return name.lower().endswith(ENDING) and not name.startswith(".")


def status_of(file: str | Path | int) -> Status:
    """Return a file's size and when it changed: the tar file, for what lies in one. A descriptor stands for its file.

    Raises OSError, and InputError for a damaged tar file.
    """
    if not isinstance(file, int) and (location := split_path(file)):
        tar, name = location
        return replace(status_of(tar), size=index_of(tar).extent(name).size)
    status = os.stat(file)  # noqa: PTH116
    return Status(status.st_size, (status.st_mtime_ns, status.st_ctime_ns))


def status_if_there(file: Path) -> Status:
    """Return what `status_of` does; of a missing file, which opening it will report, a size of -1 bytes."""
    try:
        return status_of(file)
    except OSError:
        return Status(-1, (-1, -1))


def index_of(tar: str, file: BinaryIO | None = None) -> TarIndex:
    """Return the index of a tar file, read anew if the file has changed. Raises OSError, and DamagedTarError.

    `file`: the tar file, open; it is not the file at `tar` any more if that was replaced.
    """
    now = status_of(tar if file is None else file.fileno())
    read = READ.get(tar)
    if not read or read[0] != now:
        if file is None:
            with open(tar, "rb") as opened:  # noqa: PTH123
                return index_of(tar, opened)
        with READING:
            read = READ.get(tar)
            if not read or read[0] != now:
                read = now, read_index(tar, file)
                if status_of(file.fileno()) == now:  # else somebody is writing into it
                    READ[tar] = read
    if isinstance(read[1], DamagedTarError):
        raise DamagedTarError(str(read[1]))  # a new one: an error raised twice would hold both tracebacks
    return read[1]


def read_each(tar: str, names: Iterable[str]) -> Iterator[bytes]:
    """Yield the bytes of many files in a tar file, which is opened once. Raises as `read_bytes` does."""
    with open(tar, "rb") as file:  # noqa: PTH123
        index = index_of(tar, file)
        for name in names:
            extent = index.extent(name)
            file.seek(extent.start)
            yield file.read(extent.size)


# -------------------------------------------------------------------------------------------------------------- headers


def read_index(tar: str, file: BinaryIO) -> TarIndex | DamagedTarError:
    """Read the headers of a tar file; return its index, or the error for a damaged one. Raises OSError.

    Of several files with one name the last counts, as in unpacking.
    """
    import tarfile  # here: hardly anybody needs it, and everybody would wait for it

    extents: dict[str, Extent] = {}
    links: dict[str, str] = {}
    unusable = []
    try:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as headers:
            before = 0
            for header in headers:
                if headers.offset <= before:  # a negative size would send tarfile back, again and again
                    raise ValueError("a header leads back")
                before = headers.offset
                if header.isreg() and header.offset_data + header.size > end:
                    raise ValueError("unexpected end of data")
                name = posixpath.normpath(header.name.lstrip("/"))
                target = target_of(header, name)
                extents.pop(name, None)
                links.pop(name, None)
                leads_out = name.split("/", maxsplit=1)[0] == ".."
                if leads_out or "\0" in name or (os.sep != "/" and os.sep in name) or header.issparse():
                    unusable.append(header.name)
                elif header.isreg():
                    extents[name] = Extent(header.offset_data, header.size)
                elif header.islnk() and target in extents:  # at once: a later file may take the target's name
                    extents[name] = extents[target]
                elif target:
                    links[name] = target
                headers.members.clear()  # type: ignore[attr-defined]  # kept, at a kilobyte each; typeshed lacks it
            check_end(headers)
    except MemoryError:
        raise
    except Exception as error:  # tarfile raises nearly anything on damaged files
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a header names an impossible place
            raise
        file.seek(0)
        start = file.read(max(map(len, PACKERS)))
        if packer := next((PACKERS[magic] for magic in PACKERS if start.startswith(magic)), None):
            return DamagedTarError(f"{tar} is compressed by {packer}, so photos cannot be read from it: unpack it")
        after = f"after {counted(len(extents), 'file')}" if extents else "from its beginning"
        return DamagedTarError(f"{tar} is damaged {after} ({reason_of(error)}): pack it anew")
    return TarIndex(tar, extents, (*unusable, *follow(links, extents)))


def target_of(header: TarInfo, name: str) -> str:
    """Return the name that a link leads to, or "" if the header is no link's."""
    if header.islnk():
        return posixpath.normpath(header.linkname.lstrip("/"))
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), header.linkname)) if header.issym() else ""


def check_end(headers: TarFile) -> None:
    """Raise ValueError unless only zeros follow the headers: tarfile takes any damage for the end."""
    headers.fileobj.seek(headers.offset)
    zeros = 0
    while chunk := headers.fileobj.read(CHUNK):
        if chunk.strip(b"\0"):
            raise ValueError("what follows is no header")
        zeros += len(chunk)
    if not zeros:
        raise ValueError("it has no end mark")
    if zeros > MOST_ZEROS:
        raise ValueError(f"{zeros:,} zeros at its end, as where not all of it has come")


def follow(links: dict[str, str], extents: dict[str, Extent]) -> list[str]:
    """Give links the extents of their targets; return the links without a target in the tar file."""
    lost = []
    for name in links:
        target = name
        for _ in range(LONGEST_CHAIN):
            target = links.get(target, target)
        if target in extents:
            extents[name] = extents[target]
        else:
            lost.append(name)
    return lost


# ---------------------------------------------------------------------------------- paths that may lead into a tar file


def split_path(path: str | Path) -> tuple[str, str] | None:
    """Return the tar file that a path leads into, and the name in there; None for any other path."""
    text = os.fspath(path)
    for end in [match.end() for match in LEADS_IN.finditer(text)][::-1]:  # nearly always none
        if os.path.isfile(text[:end]):  # noqa: PTH113 -- a Path of each takes its time
            return text[:end], text[end + len(os.sep) :].replace(os.sep, "/")
    return None


def file_of(path: Path) -> Path | BytesIO:
    """Return a path as it is, or for one that leads into a tar file the bytes there, to be read like an open file.

    Raises OSError, and InputError for a damaged tar file.
    """
    return BytesIO(read_bytes(path)) if split_path(path) else path


def read_bytes(path: Path, last: int | None = None) -> bytes:
    """Return the bytes of a file, or its `last` ones. Raises OSError, and InputError for a damaged tar file."""
    tar, name = split_path(path) or (os.fspath(path), "")
    with open(tar, "rb") as file:  # noqa: PTH123
        whole = Extent(0, status_of(file.fileno()).size)
        extent = index_of(tar, file).extent(name) if name else whole
        left_out = 0 if last is None else max(0, extent.size - last)
        file.seek(extent.start + left_out)
        return file.read(extent.size - left_out)
