"""Train the textbook way and ours, in turn, on the same photos and weights, and print how they compare. Run by hand.

    TORCH_HOME=... python benchmarks/compare.py flowers --arch squeezenet1_1

Whole processes are timed, five epochs each: the textbook flow; train.py with an empty feature cache; train.py again
with another learning rate. Nothing else should be running.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def timed(*command: object) -> tuple[float, str]:
    """Run a command of this interpreter; return the seconds it took and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - start, done.stdout


def accuracies(output: str) -> str:
    """Return the best validation and the test accuracy that a run printed last."""
    valid, test = re.findall(r"accuracy (\S+)%", output)[-2:]
    return f"{valid} | {test}"


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    data, options = Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        ours = ["train.py", data, *options, "--epochs", 5, "--cache_dir", f"{folder}/cache", "--save_dir", folder]
        runs = {
            "textbook, `benchmarks/classic.py`": timed("benchmarks/classic.py", data, *options),
            "`train.py`, first run": timed(*ours),
            "`train.py`, again with `--learning_rate 0.002`": timed(*ours, "--learning_rate", 0.002),
        }
    classic = next(iter(runs.values()))[0]
    print("| five epochs | whole process, s | times faster | best valid, % | test, % |\n|---|---|---|---|---|")
    for name, (seconds, output) in runs.items():
        print(f"| {name} | {seconds:.1f} | {classic / seconds:.1f} | {accuracies(output)} |")


if __name__ == "__main__":
    main()
