"""An exported folder on the disk: every file of it, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.files import check_writable, sync_folder
from flower_classifier.base.signals import signals_held
from flower_classifier.base.words import first_few, reason_of
from flower_classifier.export.standalone import PACKAGE, files_needed_by
from flower_classifier.judging.exported_folder import CARD_FILE

SCRIPT = PACKAGE / "export" / "app" / "predict.py"
LEFT_BY_PYTHON = ("__pycache__",)


def script_files() -> dict[str, bytes]:
    """Return predict.py and the files of this package that it needs, by their names in an exported folder."""
    files = {"predict.py": SCRIPT.read_bytes()}
    for path in files_needed_by(SCRIPT):
        files[path.relative_to(PACKAGE.parent).as_posix()] = path.read_bytes()
    return files


def check_place(folder: Path, own: Collection[str]) -> None:
    """Raise InputError where a folder cannot be written, or holds what is not from an earlier export.

    `folder`: without links. `own`: the names of the files that it may hold.
    """
    if folder == Path.cwd() or folder in Path.cwd().parents:
        raise InputError(f"{folder} is where you are: give another folder")
    if folder.exists():
        if any(folder.iterdir()) and not is_from_export(folder):
            raise InputError(f"{folder} holds other files: give a new folder, or one that export.py wrote")
        foreign = [name for name in files_in(folder) if name not in own and not is_old_module(folder, name)]
        if foreign:
            raise InputError(f"{folder} holds files that are no part of an export ({first_few(foreign)}): move them")
    check_writable(folder.parent, "folder")


def is_from_export(folder: Path) -> bool:
    """Say whether export.py wrote a folder: by its classifier.json, since many a folder has a model.onnx."""
    try:
        return {"format_version", "model", "digest"} <= set(json.loads((folder / CARD_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return False


def files_in(folder: Path) -> list[str]:
    """Return the names of the files and links below a folder, but for what Python leaves."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder) for path in paths)
    return sorted(name.as_posix() for name in names if not set(name.parts) & set(LEFT_BY_PYTHON))


def is_old_module(folder: Path, name: str) -> bool:
    """Say whether a file is a module of the package: an earlier version may have exported others than this one does."""
    return name.startswith(f"{PACKAGE.name}/") and name.endswith(".py") and not (folder / name).is_symlink()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files, and put them in an earlier export's place when all of them are on the disk.

    `folder`: without links. Raises RunError where the disk refuses; the folder that was there before is then untouched.
    A process that is killed between two renames leaves both folders, under names that begin with a dot.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name[:50]}-", dir=folder.parent))
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {reason_of(error)}") from error
    try:
        for name, data in files.items():
            write_file(new / name, data)
        new.chmod(0o755)  # a temporary folder is for its owner alone, a page is for others
        with signals_held():
            put_in_place(new, folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {reason_of(error)}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Write one file of a new folder to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def put_in_place(new: Path, folder: Path) -> None:
    """Give a folder another one's name; the other one goes when that is done, or comes back."""
    old = new.with_name(f"{new.name}.old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
