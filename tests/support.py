"""What tests share that is no fixture."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from waiting import LONG_LIMIT
from warm import WarmPopen

PROJECT = Path(__file__).resolve().parent.parent
NAMES = PROJECT / "cat_to_name.json"
PYTHON = shlex.quote(sys.executable)  # for a shell: the project may lie in a folder with a space
QUICK = ("--arch", "squeezenet1_1", "--weights", "none", "--no_report")  # a frozen backbone of milliseconds a photo
# For each precision: a millisecond a photo, and five where torch emulates bfloat16. Its random features tell little
TINY = ("--arch", "timm/test_byobnet", "--image_size", "64", "--weights", "none", "--no_report")
# Its best epoch is one of the second stage, in either precision
TUNABLE = ("--arch", "timm/test_resnet", *TINY[2:], "--backbone_lr", 0.001)
TWO_STAGES = (*TUNABLE, "--hidden_units", 0, "--epochs", 2, "--fine_tune", 3)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


def run_program(*arguments, cwd=PROJECT, cold=False, **environment):
    """Run a script in a process of its own, as from a shell. `cold`: with a start of Python, where that is tested."""
    start = subprocess.Popen if cold else WarmPopen
    command, pipe = [sys.executable, *map(str, arguments)], subprocess.PIPE
    environment = {**os.environ, **environment}
    with start(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate(timeout=LONG_LIMIT)
        except BaseException:
            process.kill()
            raise
    return Outcome(process.returncode, out, err)


def read(path):
    return torch.load(path, weights_only=True)


def same(one, other):
    """Compare nested plain values and tensors, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def parse(out):
    """Split `sunflower   99.96%` into name and share."""
    rows = [re.fullmatch(r"(.+?) +[<>]? ?(\d+\.\d\d)%", line).groups() for line in out.splitlines()]
    return [(name, float(number) / 100) for name, number in rows]


def parse_blocks(out):
    """Split the output for several photos into {path: [(name, share)]}."""
    blocks = re.findall(r"^(\S.*)\n((?:  .*\n)+)", out, re.MULTILINE)
    assert "".join(f"{path}\n{rows}" for path, rows in blocks) == out
    return {path: parse(rows.replace("  ", "", 1).replace("\n  ", "\n")) for path, rows in blocks}


def copy_of(folder, tmp_path):
    """Copy an exported folder, so that a test may change it."""
    return shutil.copytree(folder, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
