"""Kill training again and again, anywhere, and see that nothing is lost. Run by hand.

    python benchmarks/soak.py flowers --kills 100

Trains undisturbed first; then the same with a real kill -9 after a random time (while it loads, while features are
computed, between epochs, while files are written), each time going on with --resume, until it ends by itself. The
checkpoint must then be the undisturbed run's, tensor for tensor. Features go into a cache that the kills hit too.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parent.parent
# Every epoch's save is due, so that kills hit saving as well.
CODE = "import sys, run_state, train; run_state.SAVE_EVERY = 0; train.main(sys.argv[1:])"


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
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = [options.data_dir.resolve(), "--arch", options.arch, "--weights", "none", "--views", 6]
        common += ["--epochs", 12 * options.kills]
        begun = time.monotonic()
        finish(start(*common, "--save_dir", folder / "whole", "--cache_dir", folder / "cache of whole"))
        longest = 2 * (time.monotonic() - begun) / options.kills  # so that the kills are spread over the whole run
        kills = damaged = 0
        last = folder / "parts" / "run" / "last.pth"
        while True:
            run = start(*common, "--save_dir", folder / "parts", "--cache_dir", folder / "cache", "--resume")
            try:
                run.wait(timeout=rng.uniform(1.0, 3.0 + longest) if kills < options.kills else None)
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
                kills += 1
                damaged += last.exists() and not readable(last)
                print(f"kill {kills}: after epoch {epoch_of(last)}", file=sys.stderr, flush=True)
                continue
            finish(run)
            break
        files = ("checkpoint.pth", "run/last.pth")
        pairs = [[torch.load(folder / part / file, weights_only=True) for part in ("whole", "parts")] for file in files]
    equal = all(same(*pair) for pair in pairs)
    print(f"{kills} kills, {kills} resumes, {damaged} damaged files, {'the same' if equal else 'ANOTHER'} checkpoint")
    sys.exit(not equal or damaged > 0)


def readable(path: Path) -> bool:
    """Say whether a file of tensors is whole."""
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True


def epoch_of(path: Path) -> int:
    """Return the epoch that a state has reached, 0 without one."""
    return torch.load(path, weights_only=True)["epoch"] if path.exists() else 0


if __name__ == "__main__":
    main()
