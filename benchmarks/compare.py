"""How fast it is: whole runs, extraction, predictions and memory, for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/compare.py flowers --seeds 3

`flowers` holds train/, valid/ and test/; TORCH_HOME holds squeezenet1_1's weights, which the textbook flow and ours
take in turn (other architectures take random ones). Whole processes are timed, all with an empty feature cache but
for the second run. Takes half an hour on two cores, during which nothing else should be running.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
ROUNDS = 7  # of what takes seconds only
SHORT = ("--epochs", 5, "--views", 1)  # as many epochs as the textbook flow takes, each of the same pictures


@dataclass(frozen=True)
class Run:
    """What a process took and printed."""

    seconds: float
    megabytes: float  # at its peak
    output: str

    def accuracy(self, of: str) -> float:
        """Return the best validation accuracy or the test accuracy, in percent, as printed last.

        Both `test accuracy 79.41%` and `408 test photos   loss 0.81   324 of 408 right: 79.4% (…)` are printed.
        """
        if counts := re.findall(rf"{of} photos .*?(\d[\d,]*) of (\d[\d,]*) right: ", self.output):
            right, photos = (int(count.replace(",", "")) for count in counts[-1])
            return 100 * right / photos
        return float(re.findall(rf"{of} (?:photos.*? )?accuracy +(\d+\.\d+)%", self.output)[-1])


def run(*command: object) -> Run:
    """Run a command of this interpreter to its end."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=PROJECT, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        if status:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{output.read()}")
        return Run(seconds, usage.ru_maxrss / 1024, output.read())


def whole_runs(data: Path, folder: Path, seeds: int) -> None:
    """Print what the textbook's five epochs and ours take and reach."""
    names = (
        "textbook, `benchmarks/classic.py`, 5 epochs",
        "`train.py --epochs 5 --views 1`, first run",
        "the same again with `--learning_rate 0.002`",
        "`train.py`, the defaults, first run",
    )
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(seeds):
        common = [data, "--arch", "squeezenet1_1", "--seed", seed]
        ours = ["train.py", *common, "--save_dir", folder / "out", "--cache_dir"]
        runs[names[0]].append(run("benchmarks/classic.py", *common))
        runs[names[1]].append(run(*ours, folder / f"short{seed}", *SHORT))
        runs[names[2]].append(run(*ours, folder / f"short{seed}", *SHORT, "--learning_rate", 0.002))
        runs[names[3]].append(run(*ours, folder / f"default{seed}"))
    print("| squeezenet1_1, all photos | whole process, s | times faster | best valid, % | test, % | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    textbook = statistics.mean(run.seconds for run in runs[names[0]])
    for name, found in runs.items():
        seconds = statistics.mean(run.seconds for run in found)
        accuracies = [spread([run.accuracy(of) for run in found]) for of in ("validation", "test")]
        peak = max(run.megabytes for run in found)
        print(
            f"| {name} | {seconds:.1f} | {textbook / seconds:.1f} | {' | '.join(accuracies)} | {peak:.0f} |", flush=True
        )


def spread(values: list[float]) -> str:
    """Write mean and range."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def other_architectures(data: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Compare five epochs on 300 photos, with random weights: what is compared is time alone."""
    some = subset(data, folder / "300", classes=50, train=4, held_out=1)
    for arch in ("densenet121", "vgg16"):
        common = [some, "--arch", arch, "--weights", "none"]
        classic = run("benchmarks/classic.py", *common)
        ours = run("train.py", *common, *SHORT, "--save_dir", folder / arch, "--cache_dir", folder / f"{arch} cache")
        details = f"textbook {classic.seconds:.1f} s / ours {ours.seconds:.1f} s"
        yield f"{arch}, 300 photos, 5 epochs: times faster", f"{classic.seconds / ours.seconds:.1f}", details


def predictions(data: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Compare predicting with what it cannot do without: loading torch, and the network. Needs the runs above."""
    import efficiency  # late: the memory of this process would count as its children's

    photos = sorted((data / "test").glob("*/*.jpg"))[:400]
    commands = (
        ("-c", "import torch, torchvision"),
        ("predict.py", photos[0], folder / "vgg16" / "checkpoint.pth"),
        ("predict.py", photos[0], folder / "out" / "checkpoint.pth"),
        ("predict.py", *photos, folder / "out" / "checkpoint.pth"),
    )
    rounds = [[run(*command).seconds for command in commands] for _ in range(ROUNDS)]  # in turn
    importing, vgg16, one, many = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    _, _, extraction = efficiency.measure(data, "squeezenet1_1")
    alone = one + extraction * len(photos) / 1000
    details = f"{vgg16:.2f} / {importing:.2f} s"
    yield "one photo, vgg16 / `import torch, torchvision`", f"{vgg16 / importing:.2f}", details
    details = f"{many:.2f} s / ({one:.2f} s for one photo + {alone - one:.2f} s extraction)"
    yield f"{len(photos)} photos, squeezenet1_1 / start and extraction", f"{many / alone:.2f}", details


def memory(data: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Compare the peak of resident memory while training on few and on many photos of wide features."""
    peaks = {}
    for train in (5, 20):
        some = subset(data, folder / f"{train} per class", classes=102, train=train, held_out=1)
        options = ["--arch", "vgg16", "--weights", "none", "--epochs", 2, "--views", 1]
        number = len(list(some.glob("train/*/*")))
        peaks[number] = run(
            "train.py", some, *options, "--save_dir", folder / "memory", "--cache_dir", folder / f"memory {train}"
        ).megabytes
    (few, less), (many, more) = peaks.items()
    details = f"{many:,} photos {more:.0f} MB / {few:,} photos {less:.0f} MB"
    yield "peak memory, vgg16, four times the photos", f"{more / less:.2f}", details


def subset(data: Path, folder: Path, classes: int, train: int, held_out: int) -> Path:
    """Link to a part of the photos: so many of each of the first classes, in the layout of the whole."""
    for split, number in (("train", train), ("valid", held_out), ("test", held_out)):
        for class_folder in sorted((data / split).iterdir())[:classes]:
            (folder / split / class_folder.name).mkdir(parents=True)
            for photo in sorted(class_folder.iterdir())[:number]:
                (folder / split / class_folder.name / photo.name).symlink_to(photo)
    return folder


def main() -> None:
    """Print the tables, each row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = options.data_dir.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_runs(data, folder, options.seeds)
        print("\n| ratio of | | measured |\n|---|---|---|", flush=True)
        for part in (other_architectures(data, folder), memory(data, folder), predictions(data, folder)):
            for row in part:
                print(f"| {' | '.join(row)} |", flush=True)
        import efficiency

        for row in efficiency.rows(data):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
