"""A folder watcher: a line of JSON for each photo that is, or appears, in a folder. Ctrl-C ends it.

PYTHONPATH=. python docs/examples/watch.py incoming rose_app >> answers.jsonl

A photo is answered when it has stopped growing. Where it changes later, as after an upload that had come to a stop, it
is answered again: the last line counts.
"""

import json
import sys
import time
from pathlib import Path

import flower_classifier as fc

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
SETTLED = 1.0  # seconds without a change, after which a file is taken to be whole
State = tuple[int, int]  # of a file: its size in bytes, and when it was changed, in ns


def state_of(photo: Path) -> State | None:
    """Return a file's state; None where it has gone again."""
    try:
        status = photo.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


folder, predictor = Path(sys.argv[1]), fc.load(sys.argv[2])
seen: dict[Path, tuple[State | None, float]] = {}  # each file's state, and since when it has been in it
answered: dict[Path, State | None] = {}
while True:
    for photo in sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS):
        state, now = state_of(photo), time.monotonic()
        if photo not in seen or seen[photo][0] != state:
            seen[photo] = state, now
        elif state and now - seen[photo][1] >= SETTLED and answered.get(photo) != state:
            answered[photo] = state
            try:
                answer = predictor(photo).plain()
            except fc.InputError as error:
                answer = {"error": str(error)}
            print(json.dumps({"path": str(photo), **answer}), flush=True)
    time.sleep(SETTLED / 5)
