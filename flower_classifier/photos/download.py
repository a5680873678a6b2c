"""The photos of 102 species of flowers from the network: fetched, checked, and unpacked whole or not at all.

The downloaded bytes lie beside DATA_DIR in the hidden file .NAME.zip.part. The file survives any end of the program,
kill -9 included, and the next run fetches only the rest. The photos are unpacked into .NAME.unpacking, which takes
DATA_DIR's name when it is complete. Nothing in an archive is trusted to be what it says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.error import HTTPError

from flower_classifier.base.console import note, progress
from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.files import sync_folder
from flower_classifier.base.text import counted, first_few, megabytes, printable, reason_of
from flower_classifier.photos.folders import is_ignored
from flower_classifier.photos.images import photo_endings

if sys.platform != "win32":  # which has no such locks
    import fcntl

FLOWERS = "https://s3.amazonaws.com/content.udacity-data.com/courses/nd188/flower_data.zip"
TIMEOUT = 30.0  # seconds without a byte, after which a connection is given up
PAUSES = (1.0, 2.0, 4.0)  # seconds before each new try; when they are used up without progress, the download fails
CHUNK = 2**18  # bytes
BEGINNING = b"PK\x03\x04"  # the first bytes of every zip archive that is not empty


class BrokenOffError(Exception):
    """The connection broke off or stalled. The received bytes are good; the rest may be requested again."""


def download(data_dir: Path) -> None:
    """Fetch the flowers into `data_dir`, unless something is there already.

    Raises InputError for a `data_dir` that cannot be a new folder, RunError if the network, disk or archive fails.
    """
    destination = data_dir.resolve()
    unpacking = destination.with_name(f".{destination.name}.unpacking")
    try:
        if has_content(data_dir):
            note(f"{data_dir} is there already: nothing to download")
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(destination.with_name(f".{destination.name}.zip.part")) as partial:
            if unpacking.exists():
                shutil.rmtree(unpacking)  # what a killed run left
            fetch(os.environ.get("FLOWERS_URL") or FLOWERS, partial)
            count = unpack(partial, unpacking, destination)
            partial.truncate(0)  # which removes it
    except OSError as error:
        raise RunError(f"cannot write {error.filename or destination}: {error.strerror or error}") from error
    note(f"unpacked {counted(count, 'photo')} into {data_dir}")


def has_content(data_dir: Path) -> bool:
    """Say whether there is something in the folder. Raises InputError if no new folder can take its place."""
    if data_dir.is_dir() and any(data_dir.iterdir()):
        return True
    if data_dir.exists() and not data_dir.is_dir():
        raise InputError(f"{data_dir} is a file, and no folder to download into: name another one")
    if data_dir.resolve() == Path.cwd():
        raise InputError("makes a new folder, and cannot replace the one you are in: name a folder in it", "download")
    return False


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[BinaryIO]:
    """Open the file of received bytes, to read and append; remove it at the end if it is empty or no archive.

    Raises InputError while another run has it open.
    """
    empty = False
    try:
        with path.open("a+b") as file:
            keep_others_out(file)
            try:
                yield file
            except BadArchiveError:
                file.truncate(0)
                raise
            finally:
                empty = size_of(file) == 0
    finally:
        if empty:
            path.unlink(missing_ok=True)


def keep_others_out(file: BinaryIO) -> None:
    """Lock the file as long as this process has it open. Raises InputError if another process has locked it."""
    try:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError("another run is downloading the same: start this one when it has finished") from None
    except OSError:  # a file system without locks
        pass


def size_of(file: BinaryIO) -> int:
    """Return a file's length in bytes, and stand at its end."""
    return file.seek(0, os.SEEK_END)


# ---------------------------------------------------------------------------------------------------------- fetching


def fetch(url: str, partial: BinaryIO) -> None:
    """Append the missing bytes to the partial file; request the rest whenever the connection breaks off.

    Raises RunError when all tries after the PAUSES bring nothing more.
    """
    furthest, failures = size_of(partial), 0
    while True:
        try:
            receive(url, partial)
            return
        except BrokenOffError as error:
            size = size_of(partial)
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            if failures > len(PAUSES):
                advice = "is there a network? The same command tries again"
                if size:
                    advice = f"{megabytes(size)} of it are kept; the same command goes on from there"
                raise RunError(f"cannot download {printable(url)}: {error}\n{advice}") from error
            note(f"{error}; trying again in {PAUSES[failures - 1]:g} s")
            time.sleep(PAUSES[failures - 1])


def receive(url: str, partial: BinaryIO) -> None:
    """Request the missing bytes of the partial file once, and append the response.

    Raises BrokenOffError if that is not all, RunError if the server refuses, BadArchiveError if it is no archive.
    """
    size = size_of(partial)
    try:
        response = ask(url, size)
    except HTTPError as error:
        if error.code == 416 and size:  # the archive has nothing behind what we have
            if content_range(error)[1] in (size, None):  # None: no length; unpacking will show whether it is whole
                return
            partial.truncate(0)
            return receive(url, partial)
        again = "try again later, or let FLOWERS_URL name another place"
        raise RunError(f"cannot download {printable(url)}: HTTP {error.code} {error.reason}; {again}") from error
    with response:
        if response.headers.get_content_type() == "text/html":  # of a hotel's network, say: what we have may be good
            raise not_an_archive_error(url)
        start, total = content_range(response)
        if start != size:  # the server has no use for ranges: all over again
            partial.truncate(0)
        if start not in (0, size):
            raise BrokenOffError("the server sent another part than it was asked for")
        sizes = (start, total) if start and total else (start or total,)
        length = f"{'going on at ' if start else ''}{megabytes(*sizes)}" if any(sizes) else "size unknown"
        note(f"downloading {printable(url)} ({length})")
        append(response, partial, start, total, url)


def append(response: HTTPResponse, partial: BinaryIO, start: int, total: int | None, url: str) -> None:
    """Append a response to the partial file. Raises BrokenOffError unless the file is `total` bytes long then."""
    with progress(total, "downloading", "byte", scaled=True, done=start) as bar:
        for chunk in chunks(response):
            if not size_of(partial) and not BEGINNING.startswith(chunk[: len(BEGINNING)]):
                raise not_an_archive_error(url)
            partial.write(chunk)
            partial.flush()  # so that kill -9 loses nothing
            bar.update(len(chunk))
    if total not in (None, size_of(partial)):
        raise BrokenOffError(f"the connection broke off at {megabytes(size_of(partial), total)}")


def ask(url: str, start: int) -> HTTPResponse:
    """Request the bytes from `start` on. Raises HTTPError if the server refuses, BrokenOffError if none is reached."""
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except HTTPError:
        raise
    except (InvalidURL, ValueError):
        raise InputError(f"FLOWERS_URL: {printable(url)} is no address; it should look like {FLOWERS}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise BrokenOffError(reason_of(getattr(reason, "strerror", None) or reason)) from error


def chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield a response as it arrives, BEGINNING's bytes first. Raises BrokenOffError if the network fails."""
    try:
        yield response.read(len(BEGINNING))
        while chunk := response.read1(CHUNK):
            yield chunk
    except TimeoutError as error:
        raise BrokenOffError(f"nothing came for {TIMEOUT:g} s") from error
    except (OSError, HTTPException) as error:
        raise BrokenOffError(f"the connection broke off ({reason_of(error)})") from error


def content_range(answer: HTTPResponse | HTTPError) -> tuple[int | None, int | None]:
    """Return where in the archive an answer starts, and the archive's length; None for what the answer leaves out."""
    if answer.status not in (206, 416):
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    named = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", answer.headers.get("Content-Range", ""))
    start, total = named.groups() if named else (None, None)
    return int(start) if start else None, int(total) if total else None


def not_an_archive_error(url: str) -> RunError:
    """Return the error for a web page, such as a network sends that wants a login first."""
    return RunError(f"{printable(url)} sent a web page or the like, not a zip archive: does it open in a browser?")


# ------------------------------------------------------------------------------------------------------------ unpacking


MOST_UNPACKED = 20 * 10**9  # bytes that an archive may unpack to
# What Python's zipfile raises for damage, in part by accident
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
# The system's errors for damage: a seek to nowhere, a name of both a file and a folder, a name that is not allowed
DAMAGE_CODES = {errno.EINVAL, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}


class BadArchiveError(RunError):
    """The download is no archive of photos, or a damaged or malicious one. It is of no use, and is removed."""


def unpack(partial: BinaryIO, unpacking: Path, destination: Path) -> int:
    """Unpack the archive into `unpacking`, rename that to `destination`, and return the number of photos.

    Raises BadArchiveError for a damaged or malicious archive; nothing of it stays.
    """
    try:
        with zipfile.ZipFile(partial) as archive:
            members = members_of(archive)  # which checks them all before anything is written
            unpacking.mkdir()
            with progress(len(members), "unpacking", "file") as bar:
                for path, entry in members.items():
                    target = unpacking / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)  # and compares the checksum
                    bar.update()
        if destination.exists():
            destination.rmdir()  # it is empty, but Windows renames onto no folder at all
        unpacking.rename(destination)
        sync_folder(destination.parent)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DAMAGE_CODES:
            raise
        anew = "it has been removed, and the same command downloads it anew"
        raise BadArchiveError(f"the downloaded archive is damaged ({printable(reason_of(error))}); {anew}") from error
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
    return sum(path.suffix.lower() in photo_endings() for path in members)


def members_of(archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Map paths below the data folder to the archive's files, litter left out. Raises BadArchiveError for a bad one."""
    entries = archive.infolist()
    if bad := [entry.orig_filename for entry in entries if is_dangerous(entry)]:
        raise BadArchiveError(
            f"the archive would write outside its folder ({first_few(list(map(ascii, bad)))}): refused"
        )
    if sum(entry.file_size for entry in entries) > MOST_UNPACKED:
        raise BadArchiveError(f"the archive would unpack to more than {megabytes(MOST_UNPACKED)}: refused")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise zipfile.BadZipFile("it is compressed in a way that is hardly ever used")
    paths = {PurePosixPath(entry.filename): entry for entry in entries if not entry.filename.endswith("/")}
    members = {path: entry for path, entry in paths.items() if not any(map(is_ignored, path.parts))}
    for level in (0, 1):
        roots = {path.parents[-1 - level] for path in members if path.parts[level:-1][:1] == ("train",)}
        if len(roots) == 1:
            root = roots.pop()
            return {path.relative_to(root): entry for path, entry in members.items() if path.is_relative_to(root)}
    raise BadArchiveError("the archive holds no folder train/, at its top or in a folder there: is it the right one?")


def is_dangerous(entry: zipfile.ZipInfo) -> bool:
    """Say whether an entry is anything but a plain file or folder below the destination, on any system."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    climbs = name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name
    has_drive = any(re.match("[A-Za-z]:", component) for component in name.split("/"))
    return climbs or has_drive or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
