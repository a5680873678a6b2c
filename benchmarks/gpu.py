"""What a GPU does with this project: is it right, how fast, and what holds it up. Run by hand, where there is one.

    python benchmarks/gpu.py                       (about ten minutes with 16 cores)
    python benchmarks/gpu.py extract head          (these sections alone)
    python benchmarks/gpu.py --cpu                 (a small run on the processor, to see that the script works)

Draws its own photos and takes random weights, so it needs no network. Every finding is a row of a Markdown table on
stdout, printed when it is there: what was found survives a run that is cut off.
"""

import argparse
import contextlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.torchrun import usable_cores
from flower_classifier.features.batches import batches
from flower_classifier.features.feature_cache import FeatureCache, Rows
from flower_classifier.features.inputs import Inputs, Schedule
from flower_classifier.networks.classifier import new_classifier
from flower_classifier.networks.frozen_backbone import FrozenBackbone, RowForm
from flower_classifier.photos import demo
from flower_classifier.photos.splits import Split
from flower_classifier.photos.views import Preprocessing, open_views
from flower_classifier.training.ddp import Alone
from flower_classifier.training.loop import train_one_epoch
from flower_classifier.training.recipe import Recipe
from flower_classifier.training.state import Average

PROJECT = Path(__file__).resolve().parent.parent
ARCHS = ("squeezenet1_1", "vgg16", "resnet50", "densenet121", "vit_b_16")
USUAL = Preprocessing(256, 224, (0.5,) * 3, (0.5,) * 3, "bilinear")
RECIPE = Recipe(epochs=1, learning_rate=1e-4, batch_size=64, views=1, seed=0)
SIZES = (64, 256, 512)  # photos per forward
SPARE = (1500, 700, 200)  # MB of a GPU that another program has left


class Check:
    """One run of the sections, on one device, with photos in a folder of its own."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self.folder, self.is_cpu = device, folder, device.type == "cpu"
        self.archs = ARCHS[:1] if self.is_cpu else ARCHS
        self.photos = 64 if self.is_cpu else 6_000
        self.big, self.small = folder / "big", folder / "small"

    def say(self, what: str, *values: object) -> None:
        """Print one finding."""
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        print(f"| {what} | {' · '.join(shown)} |", flush=True)

    def timed(self, work: Callable[..., object], *arguments: object, times: int = 1) -> float:
        """Return the seconds that some work takes, all that the GPU has to do for it included."""
        synchronize = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        synchronize()
        began = time.perf_counter()
        for _ in range(times):
            work(*arguments)
        synchronize()
        return (time.perf_counter() - began) / times

    def frozen_of(self, arch: str, device: torch.device, exact: bool = False) -> FrozenBackbone:
        """Return the frozen part of an architecture with random weights, always the same; `exact`: in float32."""
        frozen = FrozenBackbone(new_classifier(arch, 102, "none")[0], device)
        if exact:
            frozen.precision = torch.float32
        return frozen

    def rows_of(self, frozen: FrozenBackbone, number: int, views: int = 1) -> torch.Tensor:
        """Return the rows of so many photos, extracted as in training; all views of a photo come with the first."""
        names = sorted(path.relative_to(self.big).as_posix() for path in self.big.rglob("*.jpg"))[:number]
        split = Split("some", self.big, tuple(names), (0,) * len(names))
        return Inputs(frozen, split, schedule=Schedule(views, views), announced=False).rows()

    # -------------------------------------------------------------------------------------------------------- sections

    def data(self) -> None:
        """Draw photos as a camera's in a usual size, and a small data set."""
        self.say("torch, torchvision, cores", torch.__version__, torchvision.__version__, usable_cores())
        if self.device.type == "cuda":
            self.say("GPU", torch.cuda.get_device_properties(0))
        (self.folder / "base").mkdir()
        with multiprocessing.get_context("spawn").Pool(usable_cores()) as pool:
            base = pool.starmap(draw, [(self.folder / "base", number) for number in range(12 if self.is_cpu else 96)])
        for number in range(self.photos):
            target = self.big / f"{number % 6}" / f"{number:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(base[number % len(base)], target)
        demo.draw_dataset(self.small, {"train": 30, "valid": 10, "test": 12})

    def decode(self) -> None:
        """Decoding alone: how it scales with threads says what the interpreter's lock costs; processes have none."""
        paths = sorted(self.big.rglob("*.jpg"))[:3000]
        for workers in [number for number in (1, 2, 4, 8, 12, 16, 24) if number <= 1.5 * usable_cores()]:
            some = paths[: max(48, len(paths) * min(workers, 4) // 4)]
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(open_alone, some[:32]))
                seconds = self.timed(lambda pool, some: list(pool.map(open_alone, some)), pool, some)
            self.say(f"photos decoded a second, {workers} threads", len(some) / seconds)
        with multiprocessing.get_context("spawn").Pool(usable_cores()) as pool:
            pool.map(open_alone, paths[: 8 * usable_cores()], chunksize=4)
            seconds = self.timed(pool.map, open_alone, paths, 8)
        self.say(f"photos decoded a second, {usable_cores()} processes", len(paths) / seconds)

    def features(self) -> None:
        """The same weights' features: the device's beside those of the CPU in float32."""
        for arch in self.archs:
            reference = self.rows_of(self.frozen_of(arch, torch.device("cpu"), exact=True), 64).double()
            for name, exact in (("float32", True), ("as it comes", False)):
                frozen = self.frozen_of(arch, self.device, exact)
                one, two = (self.rows_of(frozen, 64) for _ in range(2))
                off = ((one.double() - reference).norm(dim=1) / reference.norm(dim=1)).max().item()
                same = "repeatable" if torch.equal(one, two) else "NOT REPEATABLE"
                self.say(f"{arch}, features {name}: largest relative difference", off, one.dtype, same)

    def forward(self) -> None:
        """The network alone, its pixels already on the device."""
        for arch in self.archs:
            frozen, rates = self.frozen_of(arch, self.device), []
            for size in SIZES[:1] if self.is_cpu else SIZES:
                pixels = torch.randint(256, (size, 3, 224, 224), dtype=torch.uint8, device=self.device)
                with contextlib.suppress(torch.OutOfMemoryError), torch.inference_mode():
                    self.timed(frozen, pixels, times=2)
                    seconds = self.timed(frozen, pixels, times=max(2, 2048 // size))
                    rates.append(f"{size}: {size / seconds:,.0f}")
            self.say(f"{arch}, photos a second by photos per forward", *rates)

    def extract(self) -> None:
        """Extraction as in training, in memory, after a shorter one: nothing is slow for being the first."""
        for arch in self.archs:
            frozen = self.frozen_of(arch, self.device)
            self.rows_of(frozen, min(self.photos, 1_200))
            for views in (1, 2):
                seconds = self.timed(self.rows_of, frozen, self.photos, views)
                self.say(f"{arch}, extraction of {views} views, photos a second", self.photos / seconds)

    def head(self) -> None:
        """An epoch of the head on 6,149 photos, with rows in memory and mapped from the cache."""
        number = 256 if self.is_cpu else 6_149
        for width in (512, 25_088):
            head = torch.nn.Sequential(
                torch.nn.Linear(width, 512), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(512, 102)
            ).to(self.device)
            optimizer, average = RECIPE.optimizer(head), Average(head)
            rows, labels = torch.rand(number, width), torch.randint(102, (number,))
            cache = FeatureCache(self.folder / "cache", 1e11)
            keys = [(str(index), 1, 1, 1) for index in range(number)]
            with cache.table({"check": width}, RowForm((width,), torch.float32), keys) as table:
                table.keep(range(number), rows)
                kinds = {"in memory": rows, "mapped": table.rows(range(number))}
            for kind, source in kinds.items():
                self.epoch(head, optimizer, average, source, labels)
                seconds = self.timed(self.epoch, head, optimizer, average, source, labels, times=3)
                self.say(f"head on {width} features, rows {kind}: s an epoch", seconds)
            if self.device.type == "cuda":
                found = self.waits(head, optimizer, average, width)
                self.say("times that the head's steps waited for the GPU, of 20", found)

    def epoch(
        self,
        head: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average,
        rows: Rows,
        labels: torch.Tensor,
    ) -> None:
        """Train for an epoch."""
        train_one_epoch(Alone(head), batches(rows, labels, 64, self.device, 1), optimizer, average, RECIPE)

    def waits(self, head: torch.nn.Module, optimizer: torch.optim.Optimizer, average: Average, width: int) -> int:
        """Return how often the processor waited for the GPU in twenty steps."""
        batch = (torch.rand(64, width, device=self.device), torch.randint(102, (64,), device=self.device))
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_one_epoch(Alone(head), [batch] * 20, optimizer, average, RECIPE)
        torch.cuda.set_sync_debug_mode("default")
        return len(caught)

    def runs(self) -> None:
        """The commands as a person runs them: train, resume and predict, also from one device to another."""
        gpu, photo = [] if self.is_cpu else ["--gpu"], next(self.small.glob("test/*/*.jpg"))
        for arch in ("cnn", *self.archs):
            save_dir = self.folder / "runs" / arch
            own = [
                "train.py",
                self.small,
                "--arch",
                arch,
                "--weights",
                "none",
                "--no_report",
                "--save_dir",
                save_dir,
            ]
            own += ["--cache_dir", self.folder / "cache"]
            self.command(f"{arch}: train", *own, "--epochs", 3, *gpu)
            self.command(f"{arch}: resume on the CPU", *own, "--epochs", 4, "--resume")
            self.command(f"{arch}: resume, back", *own, "--epochs", 5, "--resume", *gpu)
            asked = ["predict.py", photo, save_dir / "checkpoint.pth", "--format", "json", "--top_k", 6]
            answers = [self.command(f"{arch}: predict {' '.join(where)}", *asked, *where) for where in (gpu, [])]
            shares = [
                {one["class"]: one["probability"] for one in json.loads(out)[0]["predictions"]} for out in answers
            ]
            self.say(
                f"{arch}: largest difference of a probability", max(abs(shares[0][k] - shares[1][k]) for k in shares[0])
            )

    def full(self) -> None:
        """A GPU of which another program has taken nearly all."""
        if self.device.type != "cuda":
            return
        own = [
            "train.py",
            self.small,
            "--arch",
            "vgg16",
            "--weights",
            "none",
            "--no_report",
            "--no_cache",
            "--epochs",
            1,
        ]
        for spare in SPARE:
            torch.cuda.empty_cache()
            taken = max(1, torch.cuda.mem_get_info()[0] - spare * 2**20)
            held = torch.empty(taken, dtype=torch.uint8, device=self.device)
            self.command(f"vgg16 with {spare} MB left", *own, "--gpu", "--save_dir", self.folder / "full", codes=(0, 1))
            del held

    def command(self, what: str, *arguments: object, codes: tuple[int, ...] = (0,)) -> str:
        """Run a script of the project; say its exit code, its seconds and its last lines. Returns what it printed."""
        began = time.perf_counter()
        words = [sys.executable, *map(str, arguments)]
        done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
        told = "ok" if done.returncode in codes else "FAILED"
        last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-2:])[-200:]
        self.say(what, told, f"exit code {done.returncode}", f"{time.perf_counter() - began:.1f} s", last)
        return done.stdout


def draw(folder: Path, number: int) -> Path:
    """Draw one photo of 500 x 600 pixels."""
    species = list(demo.SPECIES.values())[number % len(demo.SPECIES)]
    picture = species.draw(np.random.default_rng(number), 600).crop((50, 0, 550, 600))
    picture.save(folder / f"{number}.jpg", quality=75)
    return folder / f"{number}.jpg"


def open_alone(path: Path) -> None:
    """Open a photo on one core."""
    torch.set_num_threads(1)
    open_views(path, USUAL)


SECTIONS = ("data", "decode", "features", "forward", "extract", "head", "runs", "full")


def main() -> None:
    """Run the sections, each whether or not the one before has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=[], metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("There is no CUDA GPU here. --cpu runs the script small, on the processor.")
    print("| what | found |\n|---|---|")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        check = Check(torch.device("cpu" if options.cpu else "cuda"), Path(folder))
        for name in SECTIONS:
            if options.sections and name not in ("data", *options.sections):
                continue
            try:
                getattr(check, name)()
            except Exception as error:
                check.say(name, f"FAILED: {type(error).__name__}: {str(error)[:300]}")
                failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
