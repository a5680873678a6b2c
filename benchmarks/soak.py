"""Kill training again and again, anywhere, and see that nothing is lost. Run by hand.

    python benchmarks/soak.py flowers --kills 100

Trains undisturbed first; then the same with a real kill -9 after a random time (while it loads, while features are
computed, between epochs, while files are written), each time going on with --resume, until it ends by itself. The
checkpoint must then be the undisturbed run's, tensor for tensor. Features go into a cache that the kills hit too. All
over again, until there were kills enough.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.messages import InputError
from flower_classifier.networks.safe_files import check_digest, read_tensors

PROJECT = Path(__file__).resolve().parent.parent
FILES = ("checkpoint.pth", "run/last.pth")
# Every epoch's save is due, so that kills hit saving as well.
CODE = """
import sys, train
from flower_classifier.training import run_folder
run_folder.SAVE_EVERY = 0
train.main(sys.argv[1:])
"""


def start(*arguments: object) -> subprocess.Popen:
    """Start training in a process of its own."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that must succeed."""
    errors = process.communicate()[1].decode()
    if process.returncode:
        sys.exit(f"a run ended with {process.returncode}:\n{errors}")


def same(one: object, other: object) -> bool:
    """Compare nested plain values and tensors, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def main() -> None:
    """Run it, and print the kills, the resumes and what was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--arch", default="squeezenet1_1")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--fine_tune", type=int, default=0, help="epochs in which the network learns too, after those")
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = [options.data_dir.resolve(), "--arch", options.arch, "--weights", "none", "--views", 6]
        common += ["--epochs", options.epochs, "--fine_tune", options.fine_tune]
        begun = time.monotonic()
        finish(start(*common, "--save_dir", folder / "whole", "--cache_dir", folder / "cache of whole"))
        longest = (time.monotonic() - begun) / 4  # a run is killed a few times before it ends
        kills = rounds = damaged = others = 0
        while kills < options.kills:
            parts = folder / f"parts {rounds}"
            killed, broken = kill_until_done(common, parts, rng, longest, options.kills - kills)
            others += not all(same(read(folder / "whole" / file), read(parts / file)) for file in FILES)
            kills, rounds, damaged = kills + killed, rounds + 1, damaged + broken
            print(f"round {rounds}: {killed} kills", file=sys.stderr, flush=True)
    print(f"{kills} kills, {kills} resumes in {rounds} runs: {damaged} damaged files, {others} other checkpoints")
    sys.exit(damaged + others > 0)


def kill_until_done(common: list, parts: Path, rng: random.Random, longest: float, most: int) -> tuple[int, int]:
    """Train into a new folder, killed at most so many times; return the kills and the damaged files they left."""
    kills = damaged = 0
    while True:
        run = start(*common, "--save_dir", parts, "--cache_dir", parts / "cache", "--resume")
        try:
            run.wait(timeout=rng.uniform(1.0, 3.0 + longest) if kills < most else None)
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
            kills += 1
            damaged += sum(not readable(parts / file) for file in FILES if (parts / file).exists())
        else:
            finish(run)
            return kills, damaged


def read(path: Path) -> dict:
    """Return what a file of tensors holds."""
    return torch.load(path, weights_only=True)


def readable(path: Path) -> bool:
    """Say whether a file of tensors is bit for bit what was written."""
    try:
        check_digest(path, read_tensors(path))
    except InputError:
        return False
    return True


if __name__ == "__main__":
    main()
