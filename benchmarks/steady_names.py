"""How often the name on the exported page changes while a camera looks at one thing, with and without the running mean.

    python benchmarks/steady_names.py rose_app flowers/valid

A clip is a walk over one photo: the frame moves, its light changes, and noise is added, ten frames a second for six
seconds. Every frame is answered by the exported folder's network, alone and by the mean that page/worker.js takes.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import flower_classifier as fc

CLIPS, FRAMES, SIDE = 24, 60, 256
INTERVAL, MEMORY = 100, 600  # ms, as in page/app.js and page/worker.js


def clip_of(photo: Path, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the frames of a walk over a photo, uint8 (SIDE, SIDE, 3)."""
    with Image.open(photo) as image:
        picture = image.convert("RGB")
    x, y, zoom, light, frames = 0.5, 0.5, 0.7, 1.0, []
    for _ in range(FRAMES):
        x, y = np.clip([x + rng.normal(0, 0.03), y + rng.normal(0, 0.03)], 0, 1)
        zoom, light = (
            float(np.clip(zoom + rng.normal(0, 0.02), 0.5, 1)),
            float(np.clip(light + rng.normal(0, 0.03), 0.6, 1.3)),
        )
        side = zoom * min(picture.size)
        left, top = x * (picture.width - side), y * (picture.height - side)
        frame = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        noisy = np.asarray(frame, dtype=float) * light + rng.normal(0, 8, (SIDE, SIDE, 3))
        frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return frames


def main() -> None:
    """Print the number of changes of the first name, and the share of frames whose first name is right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("app", type=Path, help="an exported folder")
    parser.add_argument("photos", type=Path, help="a folder of class folders, of photos that it did not learn from")
    arguments = parser.parse_args()
    predictor, rng = fc.load(arguments.app), np.random.default_rng(0)
    photos = sorted(arguments.photos.glob("*/*.jpg"))
    weight = math.exp(-INTERVAL / MEMORY)
    changes, right = np.zeros(2, int), np.zeros(2, int)
    for photo in rng.choice(np.array(photos, dtype=object), CLIPS, replace=False):
        logits = np.stack([answer.logits for answer in predictor.answers(clip_of(photo, rng))])
        means = [logits[0]]
        for row in logits[1:]:
            means.append(weight * means[-1] + (1 - weight) * row)
        for kind, rows in enumerate((logits, np.stack(means))):
            first = rows.argmax(axis=1)
            changes[kind] += int((first[1:] != first[:-1]).sum())
            right[kind] += int((first == predictor.classes.index(photo.parent.name)).sum())
    for kind, name in enumerate(("each frame alone", "running mean")):
        print(f"{name:17} {changes[kind]:5} changes   {100 * right[kind] / (CLIPS * FRAMES):.1f} % of frames right")


if __name__ == "__main__":
    main()
