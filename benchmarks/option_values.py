"""What the values of an option of train.py are worth, for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/option_values.py augment none crops mirror turns --data arrows flowers
    TORCH_HOME=... python benchmarks/option_values.py fit crop pad squash --data wide signs --lite0 FILE

TORCH_HOME holds squeezenet1_1's weights, the file those of timm's tf_efficientnet_lite0. A cell is the accuracy on the
validation photos of a run by the defaults, and on the test photos where there are any, in percent: the mean over SEEDS,
and the lowest and highest. With a cache in --cache features are computed once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tuning import BACKBONES

SEEDS = (0, 1, 2)
TRAIN = Path(__file__).resolve().parent.parent / "train.py"


def main() -> None:
    """Print a table: a row for each folder and network, a column for each value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("option")
    parser.add_argument("values", nargs="+")
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--lite0", type=Path)
    parser.add_argument("--cache", default=tempfile.mkdtemp())
    parser.add_argument("--more", nargs="*", default=[], help="further options of train.py, without their dashes")
    options = parser.parse_args()
    print(f"| photos | network | {' | '.join(options.values)} |\n|{'---|' * (2 + len(options.values))}")
    for data in options.data:
        for arch, weights in ((BACKBONES[0], None), (BACKBONES[1], options.lite0)):
            if arch == BACKBONES[1] and not weights:
                continue
            given = ["--arch", arch, *(["--weights", weights] if weights else []), "--cache_dir", options.cache]
            given += [f"--{word}" if index % 2 == 0 else word for index, word in enumerate(options.more)]
            cells = [cell(data, [*given, f"--{options.option}", value]) for value in options.values]
            print(f"| {data.name} | {arch} | {' | '.join(cells)} |", flush=True)


def cell(data: Path, given: list[str]) -> str:
    """Return the accuracies of runs with these options, one for each seed."""
    by_split: dict[str, list[float]] = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, TRAIN, data, *given, "--seed", str(seed), "--save_dir", folder, "--no_report"]
            subprocess.run(command, check=True, capture_output=True)
            summary = json.loads((Path(folder) / "run" / "summary.json").read_text(encoding="utf-8"))
        for split in ("valid", "test"):
            if split in summary["results"]:
                by_split.setdefault(split, []).append(100 * summary["results"][split]["accuracy"])
    return ", ".join(
        f"{split} {statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"
        for split, values in by_split.items()
    )


if __name__ == "__main__":
    main()
