"""An exported folder on the disk: every file of it, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath

from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.files import check_writable, sync_folder
from flower_classifier.base.words import first_few, reason_of
from flower_classifier.export.standalone import PACKAGE, files_needed_by
from flower_classifier.judging.exported_folder import is_exported

SCRIPT = PACKAGE / "export" / "app" / "predict.py"
LEFT_BY_PYTHON = ("__pycache__",)


def script_files() -> dict[str, bytes]:
    """Return predict.py and the files of this package that it needs, by their names in an exported folder."""
    files = {"predict.py": SCRIPT.read_bytes()}
    for path in files_needed_by(SCRIPT):
        files[path.relative_to(PACKAGE.parent).as_posix()] = path.read_bytes()
    return files


def check_place(folder: Path, own: Collection[str]) -> None:
    """Raise InputError where a folder cannot be written, or holds what is not from an earlier export."""
    if folder.exists():
        if not is_exported(folder) and any(folder.iterdir()):
            raise InputError(f"{folder} holds other files: give a new folder, or one that export.py wrote")
        foreign = [name for name in files_in(folder) if name not in own and not is_old_module(name)]
        if foreign:
            raise InputError(f"{folder} holds files that are no part of an export ({first_few(foreign)}): move them")
    check_writable(folder.absolute().parent, "folder")


def files_in(folder: Path) -> list[str]:
    """Return the names of the files below a folder, but for what Python leaves."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder) for path in paths)
    return sorted(name.as_posix() for name in names if not set(name.parts) & set(LEFT_BY_PYTHON))


def is_old_module(name: str) -> bool:
    """Say whether a file is of the package: an earlier version may have exported others than this one does."""
    return PurePath(name).parts[0] == PACKAGE.name


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, and put them in an earlier export's place when all of them are on the disk.

    Raises RunError where the disk refuses; the folder that was there before is then untouched.
    """
    new, old = (folder.absolute().with_name(f".{folder.absolute().name}.{word}") for word in ("new", "old"))
    try:
        for place in (new, old):
            shutil.rmtree(place, ignore_errors=True)
        for name, data in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync_folder(folder.absolute().parent)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise RunError(f"{folder} cannot be written: {reason_of(error)}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
