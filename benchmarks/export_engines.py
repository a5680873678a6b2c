"""How alike torch, onnxruntime and the page answer, and how fast, for docs/export.md. Run by hand.

    python benchmarks/export_engines.py flowers/test run/checkpoint.pth rose_app

Needs Chromium and its driver. For each photo below the folder: the answer of predict.py with the checkpoint (in
bfloat16 where the processor has it), of plain torch in float32, of the exported folder, and of its page. Then whole
processes for one photo, in turn, five rounds: the median. Takes five minutes on two cores for 408 photos.
"""

import argparse
import base64
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from browser import CAMERA, SHOWN_FRAME, Host, ask, browser, hosted, open_page, wait_for, write_video
from PIL import Image

import flower_classifier as fc
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.photos.folders import find_photos
from flower_classifier.photos.images import load_image
from flower_classifier.photos.views import open_views

PROJECT = Path(__file__).resolve().parent.parent
ROUNDS = 5
CLOSE = 0.02  # of a probability
FRAMES = 100  # different ones, that the camera shows
CAMERA_SECONDS = 240


def shares_of_torch(checkpoint: Path, photos: Sequence[Path]) -> np.ndarray:
    """Return the probabilities (N, C) by plain torch in float32."""
    loaded = Checkpoint.load(checkpoint)
    rows = []
    for photo in photos:
        pixels = torch.from_numpy(open_views(photo, loaded.preprocessing, loaded.model.answer_views))
        with torch.inference_mode():
            rows.append(loaded.classifier(pixels.permute(0, 3, 1, 2)).mean(dim=0))
    return (torch.stack(rows).double() / loaded.trust.temperature).softmax(dim=1).numpy()


def shares_of_package(path: Path, photos: Sequence[Path]) -> np.ndarray:
    """Return the probabilities (N, C) that a checkpoint or a folder gives."""
    predictor = fc.load(path)
    order = {name: place for place, name in enumerate(predictor.classes)}
    shares = np.zeros((len(photos), len(order)))
    for row, result in zip(shares, predictor(list(photos), top_k=len(order)), strict=True):
        for one in result:
            row[order[one["class"]]] = one["probability"]
    return shares


def shares_of_page(folder: Path, photos: Sequence[Path]) -> tuple[np.ndarray, float, float]:
    """Return the probabilities of the five likeliest classes (others nan), ms for a photo's pixels and the network."""
    order = {name: place for place, name in enumerate(fc.load(folder).classes)}
    shares = np.full((len(photos), len(order)), np.nan)
    timings = []
    with hosted(folder) as address, browser() as driver:
        open_page(driver, address)
        for row, photo in zip(shares, photos, strict=True):
            answered = ask(driver, photo)
            timings.append(answered["timing"])
            for one in answered["predictions"]:
                row[order[one["class"]]] = one["probability"]
    return shares, *(statistics.median(timing[part] for timing in timings) for part in ("look", "think"))


def print_agreement(name: str, one: np.ndarray, other: np.ndarray) -> None:
    """Print how alike two ways to answer are."""
    same = int((np.nanargmax(one, axis=1) == np.nanargmax(other, axis=1)).sum())
    differences = np.nanmax(np.abs(one - other), axis=1)
    close = int((differences <= CLOSE).sum())
    print(f"| {name} | {same} of {len(one)} | {differences.max():.4f} | {close} of {len(one)} |", flush=True)


def print_latency(photo: Path, checkpoint: Path, folder: Path) -> None:
    """Print what one photo takes in whole processes."""
    commands = {
        "`predict.py` with the checkpoint": (PROJECT / "predict.py", photo, checkpoint),
        "`predict.py` with the folder": (PROJECT / "predict.py", photo, folder),
        "the folder's own `predict.py`": (folder / "predict.py", photo),
    }
    seconds = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - began)
    first = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.2f} | {statistics.median(values) / first:.2f} |", flush=True)


def print_camera(folder: Path, photos: Sequence[Path]) -> None:
    """Print how alike the page and predict.py answer to what a camera sees: each photo for a third of a second."""
    pictures = [load_image(photo).resize((640, 480), Image.Resampling.BICUBIC) for photo in photos]
    predictor, seen = fc.load(folder), {}
    with tempfile.TemporaryDirectory() as place, hosted(folder) as address:
        write_video(Path(place) / "camera.y4m", pictures, 10)
        with browser(*CAMERA, f"--use-file-for-fake-video-capture={place}/camera.y4m") as driver:
            open_page(driver, address)
            button, began = driver.find_element("id", "hold"), time.monotonic()
            while len(seen) < len(photos) and time.monotonic() - began < CAMERA_SECONDS:
                wait_for(driver, "window.answers.length > 0")
                button.click()
                answered = wait_for(driver, "window.answers.findLast((answer) => answer.held)")
                seen[base64.b64decode(driver.execute_script(SHOWN_FRAME))] = answered["predictions"]
                button.click()
                driver.execute_script("window.answers.length = 0")
    same, largest = 0, 0.0
    for (frame, predictions), result in zip(seen.items(), predictor(list(seen)), strict=True):
        shares = {row["class"]: row["probability"] for row in predictor(frame, top_k=len(predictor.classes))}
        same += predictions[0]["class"] == result[0]["class"]
        largest = max(largest, *(abs(row["probability"] - shares[row["class"]]) for row in predictions))
    print(f"| camera's frames, page and folder | {same} of {len(seen)} | {largest:.4f} | |", flush=True)


def first_load(folder: Path) -> float:
    """Return how many MB the page fetches on its first visit."""
    Host.asked.clear()
    with hosted(folder) as address, browser() as driver:
        open_page(driver, address)
    names = {path.partition("?")[0].strip("/") or "index.html" for path in Host.asked}
    return sum((folder / name).stat().st_size for name in names if (folder / name).is_file()) / 1e6


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    photos = find_photos(options.photos)
    page, look, think = shares_of_page(options.folder, photos)
    ways = {
        "page": page,
        "folder": shares_of_package(options.folder, photos),
        "torch, float32": shares_of_torch(options.checkpoint, photos),
        "checkpoint": shares_of_package(options.checkpoint, photos),
    }
    print("| compared | same first class | largest difference of a probability | within 0.02 |\n|---|---|---|---|")
    pairs = [("page", "folder"), ("folder", "torch, float32"), ("folder", "checkpoint"), ("page", "checkpoint")]
    for one, other in pairs:
        print_agreement(f"{one} and {other}", ways[one], ways[other])
    print_camera(options.folder, photos[:: max(1, len(photos) // FRAMES)][:FRAMES])
    print("\n| one photo, whole process | time, s | of the first |\n|---|---|---|")
    print_latency(photos[0], options.checkpoint, options.folder)
    print(f"\nThe page: {look:.0f} ms for the pixels and {think:.0f} ms for the network, a photo.")
    print(f"Its first visit fetches {first_load(options.folder):.1f} MB.")


if __name__ == "__main__":
    main()
