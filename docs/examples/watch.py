"""A folder watcher: a line of JSON for each photo that is, or appears, in a folder. Ctrl-C ends it.

PYTHONPATH=. python docs/examples/watch.py incoming rose_app >> answers.jsonl
"""

import json
import sys
import time
from pathlib import Path

import flower_classifier as fc

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
SETTLED = 1.0  # seconds without a change, after which a file is taken to be whole


def is_changing(photo: Path) -> bool:
    """Say whether a file may still be written, or has gone again."""
    try:
        return 0 <= time.time() - photo.stat().st_mtime < SETTLED
    except OSError:
        return True


folder, predictor = Path(sys.argv[1]), fc.load(sys.argv[2])
answered: set[Path] = set()
while True:
    for photo in sorted(set(folder.iterdir()) - answered):
        if photo.suffix.lower() not in ENDINGS or is_changing(photo):
            continue
        answered.add(photo)
        try:
            answer = predictor(photo).plain()
        except fc.InputError as error:
            answer = {"error": str(error)}
        print(json.dumps({"path": str(photo), **answer}), flush=True)
    time.sleep(SETTLED / 5)
