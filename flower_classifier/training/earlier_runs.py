"""Earlier runs into the same folder: each is kept whole, under a number, until the person removes it.

    out/checkpoint.pth, out/run/…                              the run that was the last to save something
    out/run/earlier/1/checkpoint.pth, out/run/earlier/1/run/…  the first one, as it lay in out/

So `--save_dir out/run/earlier/1 --resume` goes on with the first.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flower_classifier.base.errors import InputError
from flower_classifier.base.files import keep_as, sync_folder
from flower_classifier.networks.tensor_files import damage_told, read_tensors
from flower_classifier.training.finished import Finished

EARLIER = "earlier"  # the folder in run/ that holds them
STATES = ("last.pth", "previous.pth", "previous_last.pth")  # the latter two are an earlier version's


@dataclass(frozen=True)
class EarlierRun:
    """What an earlier run reached."""

    folder: Path
    accuracy: float  # of its best epoch on its validation photos, 0 to 1
    comparable: bool  # whether these were the same photos

    @property
    def checkpoint(self) -> Path:
        """Where its checkpoint is kept."""
        return self.folder / "checkpoint.pth"


def put_aside(checkpoint: Path, run: Path, reports: Iterable[Path]) -> Path | None:
    """Move what an earlier run has left to the next number; return where it is kept, or None if there was nothing.

    `reports` are the files and folders that reports on it consist of. Whatever else lies there stays: run/ may be a
    folder of the person's own. So does the list of bad photos, which is the new run's already.

    Its checkpoint and its state get a second name there. Under their own they stay until new ones replace them, so
    there is a whole checkpoint at any moment. All else goes: a report of an earlier run beside a new checkpoint would
    be taken for its own. Raises OSError where the disk refuses.
    """
    old = [run / name for name in STATES if name != "last.pth"]
    going = [*old, *reports]
    kept = [path for path in (checkpoint, run / "last.pth") if path.is_file()] + list(files_in(going))
    if not kept:
        return None
    place = run / EARLIER / str(1 + max(map(int, numbers(run)), default=0))
    beginning = place.with_name(".beginning")
    shutil.rmtree(beginning, ignore_errors=True)  # a process died while it did this
    for path in kept:
        second = beginning / path.relative_to(checkpoint.parent)
        second.parent.mkdir(parents=True, exist_ok=True)
        keep_as(path, second)
    beginning.rename(place)
    sync_folder(place.parent)
    remove(going)
    return place


def files_in(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among these paths, and in the folders among them."""
    for path in paths:
        yield from (file for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file())


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders, and what they leave empty. Raises OSError where the disk refuses."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not empty
            path.parent.rmdir()


def numbers(run: Path) -> list[str]:
    """Return the names of the folders of earlier runs."""
    return [path.name for path in (run / EARLIER).glob("*") if path.name.isdecimal()]


def best_earlier(run: Path, valid: str) -> EarlierRun | None:
    """Return the earlier run with the highest validation accuracy: of those with these validation photos, if any are.

    `valid`: the fingerprint of the validation photos. Runs whose state or checkpoint is gone or damaged do not count.
    """
    found = []
    for number in numbers(run):
        folder = run / EARLIER / number
        state, checkpoint = folder / "run" / "last.pth", folder / "checkpoint.pth"
        try:
            with damage_told(folder):
                finished, written = Finished.from_plain(read_tensors(state)), read_tensors(checkpoint)
                best = written["history"][written["training"]["epoch"] - 1]
                # A run that was killed while it saved may have left a state beside another run's checkpoint
                is_of_run = best in finished.history
                comparable = is_of_run and finished.identity is not None and finished.identity.valid == valid
                found.append(EarlierRun(folder, best["valid_accuracy"], comparable))
        except InputError:
            continue
    return max(found, key=lambda earlier: (earlier.comparable, earlier.accuracy), default=None)
