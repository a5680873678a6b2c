"""Files of tensors: read without trusting them, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from terminal import InputError, RunError, reason_of


def read_tensors(path: Path, mmap: bool = True) -> dict[str, object]:
    """Read a file that `torch.save` wrote (mapped into memory) without ever running code that it may hold."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # whatever the reader makes of a file from elsewhere
        raise InputError(f"{path} is no checkpoint, or a damaged one ({reason_of(error)})") from error
    if not isinstance(contents, dict):
        raise InputError(f"{path} holds a {type(contents).__name__}, not a checkpoint that train.py wrote")
    return contents


def write_atomically(path: Path, contents: dict[str, object]) -> None:
    """Write a temporary file beside `path`, force it to the disk, and rename it: `path` is whole at any moment.

    Tensors are written from the CPU, whichever device they are on. Raises RunError where the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(to_cpu(contents), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise RunError(f"cannot write {path} ({reason_of(error)}); what was there before is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force a rename to the disk; where folders cannot be opened (Windows) the system does without."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # some file systems will not do this for a folder
                os.fsync(handle)
        finally:
            os.close(handle)


def to_cpu(value: object) -> object:
    """Bring the tensors inside dicts and lists to the CPU, each alone in its storage (a view would save the whole)."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    if isinstance(value, Mapping):
        return {key: to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(item) for item in value)
    return value
