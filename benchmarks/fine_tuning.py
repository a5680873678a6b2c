"""What --fine_tune and --mirror gain over a tuned frozen head, and cost, for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/fine_tuning.py flowers --lite0 tf_efficientnet_lite0.pth

`flowers` holds train/, valid/ and test/; TORCH_HOME holds squeezenet1_1's weights, and the file those of timm's
tf_efficientnet_lite0. For each seed a run with --tune; from copies of it, resumed, four epochs of fine-tuning the last
layers, and of all. --mirror is a run with --tune of its own. Takes half an hour on two cores.
"""

import shutil
import tempfile
from pathlib import Path

from compare import run
from tuning import BACKBONES, parser_of, row, weights_of

EPOCHS = 4
WAYS = ("last", "all")


def main() -> None:
    """Print a table for each backbone."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| run | valid, % | test, % | whole process, s | peak memory, MB |\n|---|---|---|---|---|")
    for arch in BACKBONES:
        frozen, mirrored, tuned = [], [], {way: [] for way in WAYS}
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(options.seeds):
                place = Path(folder) / str(seed)
                own = (options.flowers.absolute(), "--no_report", "--cache_dir", f"{folder}/cache")
                new = (*own, *weights_of(arch, options), "--seed", seed, "--tune")
                frozen.append(run("train.py", *new, "--save_dir", place))
                mirrored.append(run("train.py", *new, "--mirror", "--save_dir", f"{place}-mirror"))
                for way in WAYS:
                    copy = f"{place}-{way}"
                    shutil.copytree(place, copy)
                    more = ("--resume", "--fine_tune", EPOCHS, "--unfreeze", way, "--save_dir", copy)
                    tuned[way].append(run("train.py", *own, *more))
        row(f"{arch}, `--tune`", frozen)
        row(f"{arch}, `--tune --mirror`", mirrored)
        for way in WAYS:
            row(f"{arch}, then `--fine_tune {EPOCHS} --unfreeze {way}`", tuned[way])


if __name__ == "__main__":
    main()
