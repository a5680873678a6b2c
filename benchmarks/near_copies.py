"""What --groups and the search for near copies do to the photos held out, for docs/measurements.md. Run by hand.

    TORCH_HOME=... python benchmarks/near_copies.py bursts --lite0 tf_efficientnet_lite0.pth --scenes
    TORCH_HOME=... python benchmarks/near_copies.py flowers/train --lite0 tf_efficientnet_lite0.pth

The folder holds class folders. A copy of it is trained on with several seeds and each of two backbones, once as photos
are held out by default and once with --groups none. With --scenes, a quarter of the scenes of each class is set apart
first as test/ (scene07_frame2.jpg is of scene07): their accuracy is the truth about other scenes, which the validation
accuracy should tell. Prints a row for each backbone and way, then how long the search takes, with its groups.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from compare import run
from tuning import BACKBONES, parser_of, weights_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flower_classifier.base.seeding import generator
from flower_classifier.photos.folders import find_photos
from flower_classifier.photos.near_copies import near_copies

SET_APART = 4  # one scene of so many


def lay_out(photos: Path, folder: Path, seed: int | None) -> None:
    """Copy class folders into train/, and with a seed a quarter of each class's scenes into test/."""
    shutil.rmtree(folder, ignore_errors=True)
    for class_folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        scenes = sorted({scene_of(photo) for photo in find_photos(class_folder)})
        count = 0 if seed is None else len(scenes) // SET_APART
        order = generator(seed, "set apart", class_folder.name).permutation(len(scenes))
        apart = {scenes[position] for position in order[:count]}
        for photo in find_photos(class_folder):
            split = "test" if scene_of(photo) in apart else "train"
            (folder / split / class_folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder / split / class_folder.name)


def scene_of(photo: Path) -> str:
    """Return the scene that a photo is of, by its name."""
    return photo.name.partition("_")[0]


def spread(values: list[float]) -> str:
    """Write the mean and the range of some percentages."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    """Print the table, and what the search finds and takes."""
    parser = parser_of(__doc__)
    parser.add_argument("--scenes", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| run | valid, % | test, % |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for arch in BACKBONES:
            for way in ((), ("--groups", "none")):
                valid, test = [], []
                for seed in range(options.seeds):
                    if options.scenes or not (folder / "photos").exists():
                        lay_out(options.flowers, folder / "photos", seed if options.scenes else None)
                    asked = (
                        "--seed",
                        seed,
                        "--no_report",
                        "--cache_dir",
                        folder / "cache",
                        "--save_dir",
                        folder / "out",
                    )
                    done = run("train.py", folder / "photos", *weights_of(arch, options), *asked, *way)
                    valid.append(done.accuracy("validation"))
                    if options.scenes:
                        test.append(done.accuracy("test"))
                name = " ".join((arch, *way)) or arch
                print(f"| {name} | {spread(valid)} | {spread(test) if test else '-'} |", flush=True)
    photos = [photo for path in sorted(options.flowers.iterdir()) if path.is_dir() for photo in find_photos(path)]
    started = time.perf_counter()
    groups = near_copies(photos, [photo.relative_to(options.flowers).parts[0] for photo in photos])
    seconds = time.perf_counter() - started
    print(f"{len(photos):,} photos: {len(groups)} groups of {sum(map(len, groups))} photos, in {seconds:.2f} s")
    for group in groups:
        print("  ", *(photos[index].relative_to(options.flowers) for index in group))


if __name__ == "__main__":
    main()
