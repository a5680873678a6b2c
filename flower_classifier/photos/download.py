"""The photos of 102 species of flowers from the network: fetched, checked, and unpacked whole or not at all.

The downloaded bytes lie beside DATA_DIR in the hidden file .NAME.zip.part. The file survives any end of the program,
kill -9 included. The next run requests only the rest, on the condition that the archive still has the ETag that
.NAME.zip.etag holds. The photos are unpacked into .NAME.unpacking, and take DATA_DIR's name when they are complete.
Nothing in an archive is trusted to be what it says.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError

from filelock import FileLock, Timeout

from flower_classifier.base.console import progress
from flower_classifier.base.files import sync_folder
from flower_classifier.base.messages import (
    InputError,
    RunError,
    counted,
    first_few,
    megabytes,
    note,
    printable,
    reason_of,
)
from flower_classifier.photos.folders import has_photo_suffix, is_ignored

FLOWERS = "https://s3.amazonaws.com/content.udacity-data.com/courses/nd188/flower_data.zip"
TIMEOUT = 30.0  # seconds without a byte, after which a connection is given up
CHUNK = 2**18  # bytes
NEGATIVE_CHUNK = "the server sends a chunk of a negative size"
BEGINNING = b"PK"  # of every zip archive
MOST_UNPACKED = 20 * 10**9  # bytes that an archive may unpack to
OUTSIDE = re.compile(r"^/|[\\\0]|(^|/)(\.\.(/|$)|[A-Za-z]:)")  # in the name of an entry, on any system
# What Python's zipfile raises for damage, in part by accident
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, IndexError)
# The system's errors for damage: a seek to nowhere, a name of both a file and a folder, a name that is not allowed
DAMAGE_CODES = {errno.EINVAL, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}


class BadArchiveError(RunError):
    """The download is no archive of photos, or a damaged or malicious one. It is of no use, and is removed."""


def download(data_dir: Path) -> None:
    """Fetch the flowers into `data_dir`, unless something is there already.

    Raises InputError for a `data_dir` that cannot be a new folder, RunError if the network, disk or archive fails.
    """
    destination = data_dir.resolve()
    partial, unpacking = (destination.with_name(f".{destination.name}.{end}") for end in ("zip.part", "unpacking"))
    etag, lock = partial.with_suffix(".etag"), partial.with_suffix(".lock")
    try:
        if data_dir.is_dir() and any(data_dir.iterdir()):
            note(f"{data_dir} is there already: nothing to download")
            return
        if data_dir.exists() and not data_dir.is_dir():
            raise InputError(f"{data_dir} is a file, and no folder to download into: name another one")
        if destination == Path.cwd():
            here = "makes a new folder, and cannot replace the one you are in: name a folder in it"
            raise InputError(here, "download")
        destination.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as locked:
            try:
                locked.enter_context(FileLock(lock, timeout=0))
            except Timeout:
                raise InputError("another run is downloading the same: start this one when it has finished") from None
            except (OSError, NotImplementedError):
                pass  # there are no locks here
            try:
                fetch(os.environ.get("FLOWERS_URL") or FLOWERS, partial, etag)
                count = unpack(partial, unpacking, destination)
                remove(partial, etag)
            except BadArchiveError:
                remove(partial, etag)
                raise
            finally:
                with contextlib.suppress(OSError):  # Windows cannot remove it before it is released, and then does
                    lock.unlink()
                if partial.exists() and not partial.stat().st_size:
                    remove(partial, etag)
    except OSError as error:
        raise RunError(f"cannot write {error.filename or destination}: {error.strerror or error}") from error
    note(f"unpacked {counted(count, 'photo')} into {data_dir}")


def remove(*paths: Path) -> None:
    """Remove the files that are there."""
    for path in paths:
        path.unlink(missing_ok=True)


def fetch(url: str, partial: Path, etag: Path) -> None:
    """Request the bytes that the partial file lacks, and append them; if the archive has changed, fetch all of it.

    Raises RunError if the server refuses or the network fails, InputError if `url` is no address.
    """
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and etag.exists():
        headers["If-Range"] = etag.read_text(encoding="utf-8")
    try:
        with network_errors(url, partial):
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not start:
            again = "try again later, or let FLOWERS_URL name another place"
            raise RunError(f"cannot download {printable(url)}: HTTP {error.code} {error.reason}; {again}") from error
        if error.headers.get("Content-Range", "") not in ("", f"bytes */{start}"):
            remove(partial, etag)  # of another archive
            fetch(url, partial, etag)
        return  # the archive has no more bytes; unpacking will show whether it is whole
    except (InvalidURL, ValueError):
        raise InputError(f"FLOWERS_URL: {printable(url)} is no address; it should look like {FLOWERS}") from None
    with response:
        receive(response, url, partial, etag)


def receive(response: HTTPResponse, url: str, partial: Path, etag: Path) -> None:
    """Write what a server answers behind the bytes that are there, or in their place if it sends the whole archive."""
    no_archive = f"{printable(url)} sent a web page or the like, not a zip archive: does it open in a browser?"
    if response.headers.get_content_type() == "text/html":  # of a hotel's network, say: what we have may be good
        raise RunError(no_archive)
    start = partial.stat().st_size if response.status == 206 else 0  # else it has changed, or there are no ranges
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else None
    if match := re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "")):
        if int(match[1]) != start:
            raise RunError(f"{printable(url)} sent other bytes than were asked for: remove {partial}, and try again")
        total = int(match[2]) if match[2] != "*" else total
    sizes = [size for size in (start, total) if size]
    size = f"{'going on at ' if start else ''}{megabytes(*sizes)}" if sizes else "size unknown"
    note(f"downloading {printable(url)} ({size})")
    bar = progress(total, "downloading", "byte", scaled=True, done=start)
    with bar, partial.open("ab" if start else "wb") as file:
        if not start:
            remove(etag)
            if response.headers.get("ETag", "").startswith('"'):  # If-Range takes no weak one, W/"..."
                etag.write_text(response.headers["ETag"], encoding="utf-8")
        while True:
            with network_errors(url, partial):
                try:
                    chunk = response.read1(CHUNK)
                except (ValueError, OverflowError):  # http.client's, of some sizes below 0
                    raise URLError(NEGATIVE_CHUNK) from None
                if response.chunked and (response.chunk_left or 0) < 0:  # others make it take all that follows
                    raise URLError(NEGATIVE_CHUNK)
                if not chunk and total is not None and file.tell() != total:
                    raise URLError(f"the connection broke off at {megabytes(file.tell(), total)}")
            if not chunk:
                return
            if not file.tell() and not chunk.startswith(BEGINNING[: len(chunk)]):
                raise RunError(no_archive)
            file.write(chunk)
            file.flush()  # so that kill -9 loses nothing
            bar.update(len(chunk))


@contextlib.contextmanager
def network_errors(url: str, partial: Path) -> Iterator[None]:
    """Turn errors of the network into RunError, which says how to go on; leave a server's refusal and a bad address."""
    try:
        yield
    except (HTTPError, InvalidURL):
        raise
    except (OSError, HTTPException) as error:
        reason = f"the connection broke off ({reason_of(error)})"
        if isinstance(error, TimeoutError):
            reason = f"nothing came for {TIMEOUT:g} s"
        elif isinstance(error, URLError):
            reason = reason_of(getattr(error.reason, "strerror", None) or error.reason)
        advice = "is there a network? The same command tries again"
        if partial.exists() and partial.stat().st_size:
            advice = f"{megabytes(partial.stat().st_size)} of it are kept; the same command goes on from there"
        raise RunError(f"cannot download {printable(url)}: {reason}\n{advice}") from error


def unpack(partial: Path, unpacking: Path, destination: Path) -> int:
    """Unpack the archive into `unpacking`, rename that to `destination`, and return the number of photos.

    Raises BadArchiveError for a damaged or malicious archive; nothing of it stays.
    """
    if unpacking.exists():
        shutil.rmtree(unpacking)  # what a killed run left
    try:
        with zipfile.ZipFile(partial) as archive:
            root, entries = checked(archive)  # all of them, before anything is written
            with progress(len(entries), "unpacking", "file") as bar:
                for entry in entries:
                    archive.extract(entry, unpacking)  # which compares the checksum
                    bar.update()
        if destination.exists():
            destination.rmdir()  # it is empty, but Windows renames onto no folder at all
        (unpacking / root).rename(destination)
        sync_folder(destination.parent)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DAMAGE_CODES:
            raise
        anew = "it has been removed, and the same command downloads it anew"
        raise BadArchiveError(f"the downloaded archive is damaged ({printable(reason_of(error))}); {anew}") from error
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)
    return sum(has_photo_suffix(entry.filename) for entry in entries)


def checked(archive: zipfile.ZipFile) -> tuple[str, list[zipfile.ZipInfo]]:
    """Return the folder that holds train/, "" for the archive's top, and the files in it, litter left out.

    Raises BadArchiveError if there is no such folder, or if any entry is not safe to unpack.
    """
    entries = archive.infolist()
    kinds = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: the archive does not say
    bad = [entry for entry in entries if OUTSIDE.search(entry.orig_filename)]
    bad += [entry for entry in entries if stat.S_IFMT(entry.external_attr >> 16) not in kinds]
    if bad:
        names = first_few([ascii(entry.orig_filename) for entry in bad])
        raise BadArchiveError(f"the archive would write outside its folder ({names}): refused")
    if sum(entry.file_size for entry in entries) > MOST_UNPACKED:
        raise BadArchiveError(f"the archive would unpack to more than {megabytes(MOST_UNPACKED)}: refused")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise zipfile.BadZipFile("it is compressed in a way that is hardly ever used")
    files = [entry for entry in entries if not (entry.is_dir() or any(map(is_ignored, Path(entry.filename).parts)))]
    roots = {match[1] for file in files if (match := re.match(r"((?:\./)?(?:[^/]+/)??)train/", file.filename))}
    if not roots & {"", "./"} and len(roots) != 1:
        without = "the archive holds no folder train/, at its top or in a folder there: is it the right one?"
        raise BadArchiveError(without)
    root = min(roots, key=len)
    return root, [file for file in files if file.filename.startswith(root)]
