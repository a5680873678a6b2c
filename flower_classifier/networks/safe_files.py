"""Files of tensors: read without trusting them, written whole or not at all.

torch's reader is told `weights_only=True` and so runs no code from a file. The rest is checked before: a file that
unpacks to more than its size, that two readers of zips see differently, or whose pickle never ends. Where a file that
was given as a checkpoint is none, its first bytes and the names in its pickle tell what it is: nothing of it is run,
and nothing is unpacked.
"""

import contextlib
import hashlib
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from flower_classifier.base.files import replaced_whole
from flower_classifier.base.messages import InputError, RunError, UserError, first_few, is_out_of_memory, reason_of
from flower_classifier.networks.source import STATE_KEYS, state_dict_in

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
def errors_as_input_error(path: Path) -> Iterator[None]:
    """Turn whatever damaged contents raise, while something is built of them, into an InputError."""
    try:
        yield
    except Exception as error:  # a network's constructor may raise anything
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise InputError(f"{path} is damaged or was changed by hand ({reason})") from error


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
    try:
        with replaced_whole(path) as file:
            torch.save(contents, file)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError, with the system's error as its context
        system = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = reason_of(getattr(system, "strerror", None) or system)
        raise RunError(f"cannot write {path} ({reason}); what was there before is untouched") from error


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


# ------------------------------------------------------------------------------------------------ checks before reading


MOST_STEPS = 5 * 10**6  # of a pickle; two or three per value
PLAIN_GLOBALS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")
# Steps of a pickle: what they push on its reader's stack (GLOBAL: what it names), how many items they pop from it (0:
# down to a mark), and what those that pop leave there. All others are refused.
PUSHED = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), "number"),
    **dict.fromkeys(("BINFLOAT", "NEWTRUE", "NEWFALSE", "NONE", "EMPTY_DICT", "EMPTY_LIST"), "other"),
    **{"BINUNICODE": "text", "GLOBAL": "", "EMPTY_TUPLE": "()", "MARK": "("},
}
TAKEN = {"TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": 0, "SETITEM": 2, "SETITEMS": 0}
TAKEN |= {"REDUCE": 2, "BINPERSID": 1}
LEFT = {**dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), "tuple"), "REDUCE": "other", "BINPERSID": "other"}
OTHER_STEPS = {"PROTO", "STOP", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"}
NOT_HERE = 2**32 - 1  # in a record: the number is in the larger record


def check_zip(path: Path) -> None:
    """Raise ValueError for what torch does not write: no zip archive, or one that claims to hold more than it is.

    torch stores without compressing; compressed, a few megabytes could unpack to all the memory there is.
    """
    if not path.is_file() and path.exists() and not path.is_dir():
        raise ValueError("it is no regular file")  # reading a pipe might wait for ever
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile:
            empty = file.seek(0, os.SEEK_END) == 0
            raise ValueError("it is empty" if empty else "it is no file of torch's, or a part of one") from None
        entries = archive.infolist()
        check_zip_ends(file, archive.start_dir)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > file.seek(0, os.SEEK_END):
            raise ValueError("it claims to hold more than its length")
        names = [entry.filename.lower() for entry in entries]  # torch's reader takes no notice of case
        if len(set(names)) < len(names) or sum(name.endswith("data.pkl") for name in names) != 1:
            raise ValueError("it holds two files of one name")
        check_pickle(archive.read(entries[[name.endswith("data.pkl") for name in names].index(True)]))


def check_zip_ends(file: BinaryIO, directory: int) -> None:
    """Raise ValueError where Python's reader of zips and torch's might see different files in one.

    They look for the directory of an archive by different ones of its records; in torch's own files all of them say
    the same, and nothing lies before the first file, between the directory and the records, or behind them.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    first = file.read(4)
    file.seek(max(0, length - 98))
    tail = file.read().rjust(98, b"\0")
    end = length - 22
    mark, size, offset, comment = struct.unpack("<4s8x2LH", tail[76:])
    agree = first == b"PK\3\4" and mark == b"PK\5\6" and not comment
    if tail[56:60] == b"PK\6\7":  # two records for archives of more than 4 GB, which torch always writes
        end -= 76
        large_mark, large_size, large_offset = struct.unpack("<4s36x2Q", tail[:56])
        (large_start,) = struct.unpack("<8xQ4x", tail[56:76])
        agree = agree and large_mark == b"PK\6\6" and large_start == end
        agree = agree and (size, offset) in ((large_size, large_offset), (NOT_HERE, NOT_HERE), (large_size, NOT_HERE))
        size, offset = large_size, large_offset
    if not agree or (size, offset) != (end - directory, directory):
        raise ValueError("it is no archive as torch writes it")


def check_pickle(data: bytes) -> None:
    """Raise ValueError for a pickle that holds anything but plain values and tensors.

    torch runs no stranger's code, but it would make a bytearray of any size that a few bytes ask for, and could be kept
    busy for ever by keys that are slow to hash: only text and small numbers may be keys here. So this follows what each
    step leaves on the reader's stack, as far as its kind: "(" is a mark.
    """
    stack: list[str] = []
    marks: list[int] = []
    memo: dict[object, str] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        check_step(name, argument, count)
        if name == "MARK":
            marks.append(len(stack))  # looked for anew each time, they would make this quadratic
        if name in PUSHED:
            stack.append(PUSHED[name] or str(argument))
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in TAKEN:
            taken = TAKEN[name] or len(stack) - marks.pop()
            if taken < 1 or (TAKEN[name] and "(" in stack[-taken:]):
                raise ValueError("it takes what is not there")
            items = [kind for kind in stack[len(stack) - taken :] if kind != "("]
            stack[len(stack) - taken :] = [LEFT[name]] if name in LEFT else []
            if name.startswith("SETITEM") and set(items[::2]) - {"text", "number"}:
                raise ValueError("it holds keys that are no text")
            if name == "REDUCE" and items[0] == "collections OrderedDict" and items[1] != "()":
                raise ValueError("it makes a mapping of something else")


def check_step(name: str, argument: object, count: int) -> None:
    """Raise ValueError for a step of a pickle, the `count`-th, that no pickle of ours takes."""
    if count > MOST_STEPS:
        raise ValueError("it is endless")
    if name not in PUSHED.keys() | TAKEN.keys() | OTHER_STEPS:
        raise ValueError(f"it holds {name}, which train.py never writes")
    if name == "GLOBAL" and not PLAIN_GLOBALS.fullmatch(str(argument)):
        raise ValueError(f"it holds {argument}, which train.py never writes")
    if isinstance(argument, int) and abs(argument) >= 2**63:
        raise ValueError("it holds a number of more than 64 bits")


# ---------------------------------------------------------------------------------------------- what else a file may be


# How torch.save began a file until version 1.6; the object is the fourth of the pickles that follow one another
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PICKLES_BEFORE = 3
MOST_SEARCHED = 10**6  # of a pickle that is looked through for a message
WEB_PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
SAFETENSORS = re.compile(rb"[\0-\xff]{8}\{\s*\"")  # the length of what follows, which is JSON
OF_TENSORS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_\w+|torch(\.storage)? \w*Storage|torch \w+")
TAKES_WEIGHTS = "these are weights; train.py --weights takes such a file"
OTHERS = (
    "these are weights; train.py --weights takes such a file, its backbone, by the --arch that it has, but not its "
    "head, which is trained again"
)
PICKLED_MODEL = "it is a pickled model; train.py --weights takes what torch.save(model.state_dict(), FILE) writes"


def kind_of(path: Path) -> str | None:
    """Say what a file is that cannot be read as a checkpoint. None: it may be a damaged one, or anything else."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            start, length = file.read(512), file.seek(0, os.SEEK_END)
            if WEB_PAGE.match(start):
                return "it is a web page, which a download may leave instead of a file"
            if SAFETENSORS.match(start) and int.from_bytes(start[:8], "little") <= length - 8:
                return "these are weights in the format safetensors; train.py --weights takes such a file"
            return kind_by_pickle(file)
    except Exception:  # a file from elsewhere: whatever the readers make of it
        return None


def kind_by_pickle(file: BinaryIO) -> str | None:
    """Recognise a file that torch.save wrote by what its pickle mentions: the names of functions, classes and keys."""
    mentioned = mentioned_in(file)
    if "format_version" in mentioned:  # ours, so it is damaged
        return None
    names = {name for name in mentioned if " " in name}
    if any(name.startswith("torch.nn.modules") for name in names):
        return PICKLED_MODEL
    if any(name.startswith("torch._utils _rebuild_") for name in names) and all(map(OF_TENSORS.fullmatch, names)):
        return OTHERS if mentioned & set(STATE_KEYS) else only_of_a_head(mentioned) or TAKES_WEIGHTS
    return None


def mentioned_in(file: BinaryIO) -> set[str]:
    """Return what a pickle mentions: `module name` of what it would call, and its texts without a space.

    Raises whatever a file that torch.save did not write makes the readers raise.
    """
    file.seek(0)
    if file.read(len(LEGACY_START)) == LEGACY_START:
        file.seek(0)
        for _ in range(LEGACY_PICKLES_BEFORE):
            for _ in pickletools.genops(file):
                pass
        steps = pickletools.genops(file)
    else:
        with zipfile.ZipFile(file) as archive:
            (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl"))
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > file.seek(0, os.SEEK_END):
                raise ValueError("it unpacks to more than it is")
            steps = pickletools.genops(archive.read(entry))
    mentioned: set[str] = set()
    for count, (opcode, argument, _) in enumerate(steps):
        if count > MOST_SEARCHED:
            raise ValueError("it is endless")
        if opcode.name == "GLOBAL" or (opcode.name == "BINUNICODE" and " " not in str(argument)):
            mentioned.add(str(argument))
    return mentioned


def kind_of_contents(path: Path, contents: Mapping[str, object]) -> str | None:
    """Say what a readable file is that is no checkpoint."""
    if {"identity", "learner"} <= contents.keys():
        beside = path.absolute().parent.parent / "checkpoint.pth"
        shown = beside if path.is_absolute() else os.path.relpath(beside)
        checkpoint = shown if beside.is_file() else "the checkpoint.pth that lies beside its folder"
        return f"it is the state of a run, for train.py --resume; give {checkpoint}"
    if state := state_dict_in(contents):
        return TAKES_WEIGHTS if state is contents else OTHERS
    return only_of_a_head(key for key, value in contents.items() if isinstance(value, Mapping))


def only_of_a_head(keys: Iterable[str]) -> str | None:
    """Say so of a file that holds a state dict, by the names of its keys, under none of those of a whole network."""
    heads = sorted(key for key in keys if key.endswith("state_dict") and "optim" not in key)
    return f"of tensors it holds {first_few(heads)} alone, which train.py cannot take: train anew" if heads else None
