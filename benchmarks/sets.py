"""How often sets of classes hold the true one, and how large they are, for docs/calibration.md. Run by hand.

    TORCH_HOME=... python benchmarks/sets.py flowers --lite0 tf_efficientnet_lite0.pth

`flowers` holds train/, valid/ and test/; TORCH_HOME holds squeezenet1_1's weights, and the file those of timm's
tf_efficientnet_lite0. For each backbone and three seeds a run with the defaults and one with --tune; the table is the
mean and the range over the seeds of what sets.csv says of the test photos. Takes ten minutes on two cores.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from compare import run
from tuning import BACKBONES, SEEDS, parser_of, weights_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.report.report_files import read_table

WAYS = {"defaults": (), "`--tune`": ("--tune",)}


def main() -> None:
    """Print the table."""
    options = parser_of(__doc__).parse_args()
    print("| run | sets of, % | hold the true class, % | by chance | classes | of one, % |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arch in BACKBONES:
            for name, way in WAYS.items():
                tables = []
                for seed in range(SEEDS):
                    own = (options.flowers.absolute(), *weights_of(arch, options), "--seed", seed, *way)
                    run("train.py", *own, "--cache_dir", f"{folder}/cache", "--save_dir", f"{folder}/run")
                    table = read_table(Path(folder) / "run" / "run" / "sets.csv")
                    tables.append([row for row in table if row["photos_of"] == "all classes"])
                for rows in zip(*tables, strict=True):
                    print_row(f"{arch}, {name}", rows)


def print_row(name: str, rows: tuple[dict[str, str], ...]) -> None:
    """Print what the runs with different seeds say of one level."""
    share, size, single = (
        [factor * float(row[column]) for row in rows]
        for column, factor in (("coverage", 100), ("mean_size", 1), ("share_of_one_class", 100))
    )
    spread = 100 * float(rows[0]["expected_spread"])
    shares = f"{statistics.mean(share):.1f} ({min(share):.1f}-{max(share):.1f})"
    sizes = f"{statistics.mean(size):.2f} | {statistics.mean(single):.0f}"
    print(f"| {name} | {rows[0]['level']} | {shares} | ±{spread:.1f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
