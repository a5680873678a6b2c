"""Files of tensors: read without trusting them, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from flower_classifier.base.errors import InputError, RunError, ToldError, is_out_of_memory
from flower_classifier.base.files import sync_folder
from flower_classifier.base.words import reason_of
from flower_classifier.networks.other_files import kind_of
from flower_classifier.networks.untrusted_files import check_zip

DIGEST = "digest"  # the key of the digest of all the rest
MOST_VALUES = 2 * 10**6  # numbers, names and lists; the history of 100,000 epochs has 1,300,000
MOST_TEXT = 10**8  # bytes of their names and values, beside the tensors'
MOST_NAMES = 10  # under which the same stored bytes may appear in a file; we use up to three

# Plain values and tensors by their names, as files hold them. Any: a stranger may have written the file, so whoever
# reaches into them is ready for whatever that raises
Plain = dict[str, Any]


def read_tensors(path: Path, mmap: bool = True) -> Plain:
    """Read a file that `write_atomically` wrote (mapped into memory) without ever running code that it may hold.

    Nor does it take more memory than the file is long. Whether the contents are what was written, `check_digest` says.
    """
    try:
        check_zip(path)
        mmap = mmap and os.fsencode(path) == str(path).encode("utf-8", "replace")  # torch maps paths in UTF-8 alone
        with path.open("rb") as file:
            contents = torch.load(path if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # whatever the reader makes of a file from elsewhere
        if kind := kind_of(path):
            raise InputError(f"{path} is no checkpoint that train.py wrote: {kind}") from error
        raise InputError(f"{path} is no checkpoint, or a damaged one ({reason_of(error)})") from error
    if not isinstance(contents, dict):
        raise InputError(f"{path} holds a {type(contents).__name__}, not a checkpoint that train.py wrote")
    return contents


@contextlib.contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn whatever damaged contents raise, while something is built of them, into an InputError."""
    try:
        yield
    except Exception as error:  # a network's constructor may raise anything
        if isinstance(error, ToldError) or is_out_of_memory(error):
            raise
        what = f"{type(error).__name__}: {reason_of(error)}"
        raise InputError(f"{path} is damaged or was changed by hand ({what})") from error


def check_digest(path: Path, contents: Plain) -> None:
    """Raise InputError unless the contents, read from `path`, are bit for bit what was written there."""
    if DIGEST not in contents:
        raise InputError(f"{path} has no digest: an earlier version wrote it, or another program; train again")
    most = MOST_NAMES * path.stat().st_size + MOST_TEXT
    try:
        same = digest_of({**contents, DIGEST: None}, most) == contents[DIGEST]
    except (OverflowError, RecursionError, RuntimeError, TypeError, ValueError) as error:  # what we never write
        raise InputError(f"{path} is no checkpoint that train.py wrote ({reason_of(error)})") from error
    if not same:
        raise InputError(f"{path} is damaged: it does not hold what was written; take another copy, or train again")


def digest_of(contents: Plain, most: int | None = None) -> str:
    """Return a digest of nested plain values and tensors.

    Raises ValueError for a tensor that is larger than its storage, and with `most` for more bytes in all or for too
    many values: a list of lists of the same list is short in a file and endless to walk.
    """
    digest, total, values = hashlib.sha256(), 0, 0

    def feed(value: object) -> None:
        nonlocal total, values
        values += 1
        if isinstance(value, torch.Tensor):
            total += value.nbytes
            if value.nbytes > value.untyped_storage().nbytes():
                raise ValueError("a tensor is larger than what is stored of it")
            text = f"tensor {value.dtype} {tuple(value.shape)}"
        elif isinstance(value, Mapping | list | tuple):
            text = f"{'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
        else:
            text = f"{type(value).__name__} {value!r}"
        data = text.encode("utf-8", "backslashreplace")
        total += len(data)
        if most is not None and (total > most or values > MOST_VALUES):
            raise ValueError("it repeats a few bytes over and over")
        digest.update(f"{len(data)}:".encode() + data)
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        for item in value.items() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
            feed(item)

    feed(contents)
    return digest.hexdigest()


def write_atomically(path: Path, contents: Plain) -> None:
    """Write a temporary file beside `path`, force it to the disk, and rename it: `path` is whole at any moment.

    Tensors are written from the CPU, whichever device they are on, and a digest of everything is added. Raises
    RunError where the disk refuses.
    """
    contents = {name: to_cpu(value) for name, value in contents.items()}
    contents[DIGEST] = digest_of({**contents, DIGEST: None})
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(contents, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch reports a full disk as a RuntimeError of its own, behind it the system's
        system = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = reason_of(getattr(system, "strerror", None) or system)
        raise RunError(f"cannot write {path} ({reason}); what was there before is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


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
