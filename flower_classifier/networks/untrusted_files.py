"""What a file of tensors from a stranger must be like before torch's reader sees it.

The reader is told `weights_only=True` and so runs no code from the file. What is checked here is the rest: a file that
unpacks to more than it is, that two readers of zips see differently, or whose pickle never ends.
"""

from __future__ import annotations

import os
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

MOST_STEPS = 5 * 10**6  # of a pickle; two or three per value
PLAIN_GLOBALS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")
# Steps of a pickle: what they leave on its reader's stack (GLOBAL: what it names), how many things they take from it
# (0: down to a mark), and what those that take leave. All others are refused.
PUSHED = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), "number"),
    **dict.fromkeys(("BINFLOAT", "NEWTRUE", "NEWFALSE", "NONE", "EMPTY_DICT", "EMPTY_LIST"), "other"),
    **{"BINUNICODE": "text", "GLOBAL": "", "EMPTY_TUPLE": "()", "MARK": "("},
}
TAKEN = {"TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": 0, "SETITEM": 2, "SETITEMS": 0}
TAKEN |= {"REDUCE": 2, "BINPERSID": 1}
LEFT = {**dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), "tuple"), "REDUCE": "other", "BINPERSID": "other"}
OTHER_STEPS = {"PROTO", "STOP", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"}
NOT_HERE = 2**32 - 1  # what a record says whose numbers are in a larger one


def check_zip(path: Path) -> None:
    """Raise ValueError for what torch does not write: no zip archive, or one that claims to hold more than it is.

    torch stores without compressing; compressed, a few megabytes could unpack to all the memory there is.
    """
    if not path.is_file() and path.exists() and not path.is_dir():
        raise ValueError("it is no regular file")  # reading a pipe might wait for ever
    with path.open("rb") as file, opened(file) as archive:
        entries = archive.infolist()
        check_ends(file, archive.start_dir)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > file.seek(0, os.SEEK_END):
            raise ValueError("it claims to hold more than its length")
        names = [entry.filename.lower() for entry in entries]  # torch's reader takes no notice of case
        if len(set(names)) < len(names) or sum(name.endswith("data.pkl") for name in names) != 1:
            raise ValueError("it holds two files of one name")
        check_pickle(archive.read(entries[[name.endswith("data.pkl") for name in names].index(True)]))


def opened(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip archive. Raises ValueError for what is none."""
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        empty = file.seek(0, os.SEEK_END) == 0
        raise ValueError("it is empty" if empty else "it is no file of torch's, or a part of one") from None


def check_ends(file: BinaryIO, directory: int) -> None:
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
        (large_place,) = struct.unpack("<8xQ4x", tail[56:76])
        agree = agree and large_mark == b"PK\6\6" and large_place == end
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
