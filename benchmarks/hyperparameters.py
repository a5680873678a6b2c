"""What epochs, learning rate, head and views do to the accuracy, for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/hyperparameters.py flowers --arch squeezenet1_1

Every row is `train.py` as a person runs it, three seeds; mean and range of the accuracies are printed as Markdown.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
ROWS = (
    "",
    "--epochs 5 --views 1",
    "--views 1",
    "--epochs 5",
    "--epochs 60",
    "--learning_rate 0.0001",
    "--learning_rate 0.01",
    "--hidden_units 0",
    "--hidden_units 1024 --dropout 0.5",
    "--views 10 --epochs 60",
    "--views 20 --epochs 100 --hidden_units 1024 --dropout 0.5",
)


def run_train(arguments: list[str], options: str, seed: int) -> dict[str, float]:
    """Run train.py once; return percentages and losses."""
    with tempfile.TemporaryDirectory() as save_dir:
        command = [
            sys.executable,
            "train.py",
            *arguments,
            *options.split(),
            "--seed",
            str(seed),
            "--save_dir",
            save_dir,
        ]
        out = subprocess.run(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
        ).stdout
        history = torch.load(Path(save_dir) / "checkpoint.pth", weights_only=True)["history"]
    return {
        "best valid": max(100 * row["valid_accuracy"] for row in history),
        "test": float(re.search(r"test accuracy (\S+)%", out)[1]),
        "last training loss": history[-1]["train_loss"],
        "last valid loss": history[-1]["valid_loss"],
    }


def main() -> None:
    """Print the table, each row as soon as it is known."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    arguments = [str(Path(sys.argv[1]).resolve()), *sys.argv[2:]]
    columns = ("best valid", "test", "last training loss", "last valid loss")
    print(f"| options | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    for options in ROWS:
        results = [run_train(arguments, options, seed) for seed in SEEDS]
        cells = []
        for column in columns:
            values = [result[column] for result in results]
            spread = f" ({min(values):.1f}-{max(values):.1f})" if column in ("best valid", "test") else ""
            digits = 1 if spread else 2
            cells.append(f"{sum(values) / len(values):.{digits}f}{spread}")
        print(f"| {f'`{options}`' if options else 'the defaults'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
