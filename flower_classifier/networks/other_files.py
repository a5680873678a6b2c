"""What a file is that was given as a checkpoint and is none, in words.

Told from its first bytes and from the names that its pickle mentions. Nothing of it is run, and nothing is unpacked.
"""

from __future__ import annotations

import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from flower_classifier.networks.weight_files import state_dict_in

# How torch.save began a file until version 1.6; the object is the fourth of the pickles that follow one another
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PICKLES_BEFORE = 3
MOST_STEPS = 10**6  # of a pickle that is looked through for a message
WEB_PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
SAFETENSORS = re.compile(rb"[\0-\xff]{8}\{\s*\"")  # the length of what follows, which is JSON
OF_TENSORS = re.compile(r"collections OrderedDict|torch\._utils _rebuild_\w+|torch(\.storage)? \w*Storage|torch \w+")
TAKES_WEIGHTS = "these are weights; train.py --weights takes such a file"
PICKLED_MODEL = "it is a pickled model; train.py --weights takes what torch.save(model.state_dict(), FILE) writes"


def kind_of(path: Path) -> str | None:
    """Say what a file is that cannot be read as a checkpoint. None: it may be a damaged one, or anything else."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return kind_by_start(file) or kind_by_pickle(file)
    except Exception:  # a file from elsewhere: whatever the readers make of it
        return None


def kind_by_start(file: BinaryIO) -> str | None:
    """Know the kinds of files that say at their beginning what they are."""
    start, length = file.read(512), file.seek(0, os.SEEK_END)
    if WEB_PAGE.match(start):
        return "it is a web page, which a download may leave instead of a file"
    if SAFETENSORS.match(start) and int.from_bytes(start[:8], "little") <= length - 8:
        return "these are weights in the format safetensors; train.py --weights takes such a file"
    return None


def kind_by_pickle(file: BinaryIO) -> str | None:
    """Know a file that torch.save wrote by what its pickle mentions: the names of functions, classes and keys."""
    mentioned = mentioned_in(file)
    if "format_version" in mentioned:  # ours, so it is damaged
        return None
    names = {name for name in mentioned if " " in name}
    if any(name.startswith("torch.nn.modules") for name in names):
        return PICKLED_MODEL
    if any(name.startswith("torch._utils _rebuild_") for name in names) and all(map(OF_TENSORS.fullmatch, names)):
        return TAKES_WEIGHTS
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
        if count > MOST_STEPS:
            raise ValueError("it is endless")
        if opcode.name == "GLOBAL" or (opcode.name == "BINUNICODE" and " " not in str(argument)):
            mentioned.add(str(argument))
    return mentioned


def kind_of_contents(path: Path, contents: Mapping[str, object]) -> str | None:
    """Say what a file is that could be read and is no checkpoint."""
    if {"identity", "learner"} <= contents.keys():
        beside = path.absolute().parent.parent / "checkpoint.pth"
        shown = beside if path.is_absolute() else os.path.relpath(beside)
        checkpoint = shown if beside.is_file() else "the checkpoint.pth that lies beside its folder"
        return f"it is the state of a run, for train.py --resume; give {checkpoint}"
    if state_dict_in(contents):
        return TAKES_WEIGHTS
    return None
