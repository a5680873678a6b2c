"""What --tune gains and costs, for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/tuning.py flowers --lite0 tf_efficientnet_lite0.pth

`flowers` holds train/, valid/ and test/; TORCH_HOME holds squeezenet1_1's weights, and the file those of timm's
tf_efficientnet_lite0. For each backbone and three seeds: a run with the defaults and one with --tune, whole processes,
the second with all features in the cache; and two epochs of the textbook flow. Takes ten minutes on two cores.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from compare import Run, run

SEEDS = 3
BACKBONES = ("squeezenet1_1", "timm/tf_efficientnet_lite0")


def row(name: str, runs: list[Run]) -> None:
    """Print the mean and the range of what some runs took and reached."""
    cells = []
    for of in ("validation", "test"):
        found = [one.accuracy(of) for one in runs]
        cells.append(f"{statistics.mean(found):.1f} ({min(found):.1f}-{max(found):.1f})")
    seconds, memory = statistics.mean(one.seconds for one in runs), max(one.megabytes for one in runs)
    print(f"| {name} | {cells[0]} | {cells[1]} | {seconds:.1f} | {memory:.0f} |", flush=True)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark on both backbones."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers", type=Path)
    parser.add_argument("--lite0", type=Path, required=True)
    return parser


def weights_of(arch: str, options: argparse.Namespace) -> tuple[object, ...]:
    """Return the options that name a backbone and its weights."""
    return "--arch", arch, *(("--weights", options.lite0.absolute()) if arch.startswith("timm/") else ())


def main() -> None:
    """Print the table."""
    options = parser_of(__doc__).parse_args()
    print("| run | valid, % | test, % | whole process, s | peak memory, MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arch in BACKBONES:
            plain, tuned = [], []
            for seed in range(SEEDS):
                own = (options.flowers.absolute(), *weights_of(arch, options), "--seed", seed, "--no_report")
                own += ("--cache_dir", f"{folder}/cache", "--save_dir", f"{folder}/{seed}")
                plain.append(run("train.py", *own))
                tuned.append(run("train.py", *own, "--tune"))
            row(f"{arch}, defaults, first run", plain)
            row(f"{arch}, `--tune`, features in the cache", tuned)
        textbook = run("benchmarks/classic.py", options.flowers.absolute(), "--epochs", 2)
    print(f"\nTwo epochs of the textbook flow: {textbook.seconds:.1f} s, {textbook.megabytes:.0f} MB")


if __name__ == "__main__":
    main()
