"""What a run leaves in --save_dir, and how that stays whole.

checkpoint.pth          the best epoch, complete in itself
run/bad_photos.txt      the photos that could not be opened, where there are any
run/lock                held while a run is using the folder
run/last.pth            the state after the last saved epoch, for --resume
run/previous.pth        the checkpoint that the run before had left here,
run/previous_last.pth   and its state

The report adds tables and pictures of a run that has ended: report_files.py lists them.
"""

from __future__ import annotations

import time
from pathlib import Path

from filelock import FileLock, Timeout

from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.files import check_writable, keep_as
from flower_classifier.base.messages import note, warn
from flower_classifier.base.signals import signals_held
from flower_classifier.networks.checkpoint import save_checkpoint
from flower_classifier.networks.tensor_files import check_digest, damage_told, read_tensors, write_atomically
from flower_classifier.training.state import Finished, TrainState

SAVE_EVERY = 10  # seconds: an epoch of head training may take less time than writing its files does


class RunFolder:
    """The files of one run; a context manager that keeps other runs out of them.

    Raises InputError at once for a folder that cannot be written, or that another run is using.
    """

    def __init__(self, save_dir: Path) -> None:
        self.checkpoint_path = save_dir / "checkpoint.pth"
        self.folder = save_dir / "run"
        self.last_path = self.folder / "last.pth"
        self.bad_path = self.folder / "bad_photos.txt"
        self.previous_path, self.previous_last_path = self.folder / "previous.pth", self.folder / "previous_last.pth"
        self.saved_at, self.saved_epoch = time.monotonic(), 0
        self.lock = FileLock(self.folder / "lock")  # which dies with its process
        self.mine = False  # whether what lies here is this run's
        for folder in (save_dir, self.folder):
            check_writable(folder, "save_dir")
        for path in (self.checkpoint_path, self.last_path):
            if path.is_dir():
                raise InputError(f"cannot be used: {path} is a folder, not a file", "save_dir")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def begin(self) -> None:
        """Make the folders, and keep other runs out from here on. Raises InputError where one is in."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
        except Timeout:
            save_dir = self.checkpoint_path.parent
            raise InputError(
                f"{save_dir}: another run is training into it; give this one its own", "save_dir"
            ) from None
        except NotImplementedError:
            warn(f"no locks on the file system of {self.folder}: see to it that no other run uses it")
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written to: {error.strerror}", "save_dir") from None

    def resume(self, state: TrainState) -> None:
        """Restore the state that the last run saved here; without one, say so and leave the state as it is."""
        if not self.last_path.exists():
            note(f"nothing to resume in {self.checkpoint_path.parent}: starting at epoch 1")
            return
        saved = read_tensors(self.last_path, mmap=False)  # training replaces the file while its tensors are used
        check_digest(self.last_path, saved)
        with damage_told(self.last_path):
            state.restore(Finished.from_plain(saved))
        self.mine = True

    def list_bad(self, lines: list[str]) -> None:
        """Write the list of photos that cannot be used; without any, remove the list of an earlier run."""
        try:
            if lines:
                self.bad_path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
            else:
                self.bad_path.unlink(missing_ok=True)
        except OSError as error:
            warn(f"cannot write {self.bad_path}: {error.strerror}")

    def save_if_due(self, state: TrainState) -> None:
        """Save if SAVE_EVERY seconds have passed since the last time."""
        if time.monotonic() - self.saved_at >= SAVE_EVERY:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Write what the finished epochs have reached, unless that has been done.

        The state goes first: it holds the best epoch too, so a run killed between the two mends the checkpoint when
        it is resumed. A run that finished no epoch leaves everything as it was.
        """
        if state.epoch == self.saved_epoch:
            return
        with signals_held():
            if not self.mine:
                self.put_aside()
            write_atomically(self.last_path, state.finished.to_plain())
            save_checkpoint(self.checkpoint_path, state.best_checkpoint())
        self.saved_at, self.saved_epoch = time.monotonic(), state.epoch

    def save_calibrated(self, state: TrainState, temperature: float) -> None:
        """Write the checkpoint once more, at the end, where another temperature than 1 has been found for it."""
        if temperature != 1:
            with signals_held():
                save_checkpoint(self.checkpoint_path, state.best_checkpoint(temperature))

    def put_aside(self) -> None:
        """Keep what an earlier run has left here: its checkpoint may be better than what this run will reach."""
        try:
            keep_as(self.last_path, self.previous_last_path)
            if keep_as(self.checkpoint_path, self.previous_path):
                note(f"{self.checkpoint_path} of an earlier run is kept as {self.previous_path}")
        except OSError as error:
            raise RunError(f"cannot write to {error.filename}: {error.strerror}") from error
        self.mine = True
