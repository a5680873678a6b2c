"""Archives of photos: unpacked whole or not at all. Nothing in one is trusted to be what it says."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from flower_classifier.base.errors import RunError
from flower_classifier.base.files import sync_folder
from flower_classifier.base.messages import progress
from flower_classifier.base.words import first_few, megabytes, printable, reason_of
from flower_classifier.photos.folders import is_litter
from flower_classifier.photos.images import photo_endings

MOST_UNPACKED = 20 * 10**9  # bytes that an archive may unpack to
# What Python's zipfile says of damage, some of it by accident
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
# What the system says of it: a seek to nowhere, a name that is both a file's and a folder's or can be neither's
DAMAGE_CODES = {errno.EINVAL, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}


class BadArchiveError(RunError):
    """What has come is no archive of photos, or a damaged or malicious one: of no use, and not to be kept."""


def unpack(partial: BinaryIO, unpacking: Path, place: Path) -> int:
    """Unpack the archive into `unpacking`, whose name is then `place`; return the number of photos.

    Raises BadArchiveError for a damaged or malicious archive; what was unpacked of it is gone then.
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
        if place.exists():
            place.rmdir()  # it is empty, but Windows renames onto no folder at all
        unpacking.rename(place)
        sync_folder(place.parent)
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
    kept = {path: entry for path, entry in paths.items() if not any(map(is_litter, path.parts))}
    for level in (0, 1):
        roots = {path.parents[-1 - level] for path in kept if path.parts[level:-1][:1] == ("train",)}
        if len(roots) == 1:
            root = roots.pop()
            return {path.relative_to(root): entry for path, entry in kept.items() if path.is_relative_to(root)}
    raise BadArchiveError("the archive holds no folder train/, at its top or in a folder there: is it the right one?")


def is_dangerous(entry: zipfile.ZipInfo) -> bool:
    """Say whether an entry is no plain file or folder below the one it is unpacked into, on any system."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    climbs = name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name
    has_drive = any(re.match("[A-Za-z]:", part) for part in name.split("/"))
    return climbs or has_drive or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
