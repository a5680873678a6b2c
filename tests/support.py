"""What tests share that is no fixture."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
NAMES = PROJECT / "cat_to_name.json"
QUICK = ("--arch", "squeezenet1_1", "--weights", "none")  # a frozen backbone that costs milliseconds a photo


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


def run_program(*arguments, cwd=PROJECT, **environment):
    """Run a script in a process of its own, as from a shell."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
