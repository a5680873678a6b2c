"""How much of a JPEG must be there, for docs/measurements.md. Run by hand.

    python benchmarks/cut_photos.py CHECKPOINT FOLDER

Cuts the photos of a folder with one folder per class, so that a share of each file's bytes is left, and opens them as
far as they go. Prints for each share how many of their rows are there, and how many photos the checkpoint names
rightly, in percent. Then the same of photos saved as progressive JPEGs, cut behind each of their scans.
"""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import flower_classifier as fc
from flower_classifier.photos import mending
from flower_classifier.predicting.base_predictor import BasePredictor

SCANS = range(1, 11)  # of libjpeg's ten for a picture in colour
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)


def rows_of(data: bytes) -> float:
    """Return the share of rows that are there of a JPEG without its last bytes."""
    with Image.open(io.BytesIO(data + mending.JPEG_END)) as image:
        return mending.share_of_rows(image.convert("RGB"))


def progressive(path: Path, scans: int) -> bytes:
    """Return a photo as a progressive JPEG that ends after so many scans."""
    file = io.BytesIO()
    Image.open(path).convert("RGB").save(file, "JPEG", quality=90, progressive=True)
    data = file.getvalue()
    ends = [mark.start() for mark in re.finditer(b"\xff\xda", data)][1:]  # 0xFF has a 0 behind it within a scan
    return data[: ends[scans - 1]] if scans <= len(ends) else data


def main() -> None:
    """Print a line for each share."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    predictor, folder = fc.load(Path(sys.argv[1])), Path(sys.argv[2])
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg"))
    mending.LEAST_WHOLE = 0.0  # all are opened
    for share in SHARES:
        whole = [path.read_bytes() for path in paths]
        cut = [data[: int(share * len(data))] for data in whole]
        there = np.mean([rows_of(data) for data in cut])
        print(f"{share:4.0%} of the bytes, {there:4.0%} of the rows: {right(predictor, cut, paths):.1f}", flush=True)
    for scans in SCANS:
        cut = [progressive(path, scans) for path in paths]
        print(f"{scans:2} of {SCANS[-1]} scans: {right(predictor, cut, paths):.1f}", flush=True)


def right(predictor: BasePredictor, photos: Sequence[bytes], paths: Sequence[Path]) -> float:
    """Return the share of photos that are named rightly, in percent; the lowest folder names the class."""
    with contextlib.redirect_stderr(io.StringIO()):
        answers = predictor(list(photos), top_k=1, stranger_rate=0, sets=0)
    return 100 * float(
        np.mean([answer[0]["class"] == path.parent.name for answer, path in zip(answers, paths, strict=True)])
    )


if __name__ == "__main__":
    main()
