"""Files and folders, whatever is in them: force them to the disk, give them a second name, check for write access."""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from flower_classifier.base.messages import InputError, nearest

MOST_LOOKED_AT = 10_000  # entries of a folder, for a name like that of a missing file


def sync_folder(folder: Path) -> None:
    """Force a rename to the disk; do nothing where folders cannot be opened (Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # some file systems will not do this for a folder
                os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def replaced_whole(path: Path, writer: str = "") -> Iterator[BinaryIO]:
    """Open a file that takes `path`'s place when it is complete and on the disk. Raises OSError.

    Whatever ends the process before leaves what was there. `writer`: a name for this process, unlike those of others
    that may write the same file at the same time.
    """
    temporary = path.with_name(f".{path.name[:50]}{writer}.tmp")  # a name may already be as long as names can be
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, writer: str = "") -> None:
    """Write a file whole or not at all, as `replaced_whole` does. Raises OSError."""
    with replaced_whole(path, writer) as file:
        file.write(data)


def input_file(path: Path, option: str) -> bytes:
    """Return what a file holds that an option names. Raises InputError, naming the option."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file", option)  # but a folder, or a pipe that might never end
    try:
        return path.read_bytes()
    except OSError as error:
        hint = like_it(path) if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"cannot read {path}: {error.strerror}{hint}", option) from None


def check_there(path: Path, option: str | None = None) -> None:
    """Raise InputError, naming the option, where there is nothing at a path: a look before slow work begins."""
    if not os.path.lexists(path):
        raise InputError(f"cannot read {path}: {os.strerror(errno.ENOENT)}{like_it(path)}", option)


def like_it(path: Path) -> str:
    """Return a hint at the file whose name is most like that of a missing one: `; did you mean cat_to_name.json?`."""
    try:
        by_lower = {other.name.lower(): other for other in islice(path.parent.iterdir(), MOST_LOOKED_AT)}
    except OSError:  # there is no such folder either
        return ""
    close = nearest(path.name.lower(), by_lower, most=1, cutoff=0.8)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def digest_of(values: Iterable[object]) -> str:
    """Return a digest of some values, by their text, in hexadecimal: 16 bytes."""
    text = "\0".join(map(str, values)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def sha256_of(data: bytes) -> str:
    """Return a digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the digest of a file that may be large, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def hardlink(path: Path, aside: Path) -> bool:
    """Give a file the second name `aside`, beside its first; return False if there is no such file."""
    if not path.is_file():
        return False
    temporary = aside.with_name(f".{aside.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(path), temporary)
    except OSError:  # a file system without hard links
        shutil.copy2(path, temporary)
    temporary.replace(aside)
    temporary.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing
    return True


def check_writable(folder: Path, option: str | None = None) -> None:
    """Raise InputError unless files can be written to a folder, or to the nearest one above that exists.

    `option` is the name of the setting that says which folder; None: no option says that.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"{existing} cannot be written to: {error.strerror}", option) from None
