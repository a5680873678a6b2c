"""What a run leaves in --save_dir, and how that stays whole.

checkpoint.pth          the best epoch, complete in itself; under another name where --save_dir ends in one
run/bad_photos.txt      the photos that could not be opened, where there are any
run/lock                held while a run is using the folder
run/job                 the name of the torchrun job that is at work, once it has saved something
run/begun               the options of a new run, until it has saved something
run/last.pth            the state after the last saved epoch, for --resume
run/earlier/1/, 2/, …   what earlier runs left here

The report adds tables and pictures: report_files.py lists them.

Each earlier run into the same folder is kept whole, under a number, until the person removes it.

    out/checkpoint.pth, out/run/…                              the run that was the last to save something
    out/run/earlier/1/checkpoint.pth, out/run/earlier/1/run/…  the first one, as it lay in out/

So `--save_dir out/run/earlier/1 --resume` goes on with the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from flower_classifier.base.files import check_writable, hardlink, sha256_of_file, sync_folder, write_whole
from flower_classifier.base.messages import InputError, RunError, first_few, note, warn
from flower_classifier.base.signals import Stopped, signals_held
from flower_classifier.base.torchrun import job_name
from flower_classifier.config.allowed import CHECKPOINT_FILE
from flower_classifier.config.train_options import TrainConfig
from flower_classifier.networks.safe_files import (
    DIGEST,
    check_digest,
    errors_as_input_error,
    read_tensors,
    write_atomically,
)
from flower_classifier.training.recipe import FineTuning
from flower_classifier.training.saved_state import Finished
from flower_classifier.training.state import TrainState

TENSORS = ("state_dict", "memory", "stranger_scores")  # the entries of a checkpoint that hold tensors
OLD_STATES = ("previous.pth", "previous_last.pth")  # an earlier version's, beside last.pth
STOPPED_BY_CTRL_C = 128 + signal.SIGINT
SAVE_EVERY = 10  # seconds: an epoch of head training may take less time than writing its files does


@dataclass(frozen=True)
class EarlierRun:
    """What an earlier run reached."""

    checkpoint: Path  # where that is kept
    accuracy: float  # of its best epoch on its validation photos, 0 to 1
    comparable: bool  # whether these were the same photos


class RunFolder:
    """The files of one run; a context manager that keeps other runs out of them.

    `find_reports` finds the files and folders of the reports on a checkpoint; its second argument says whether the run
    is resumed. The first save removes them: reports by an earlier run, or by this one before it was resumed, describe
    another checkpoint. Raises InputError at once for a folder that cannot be written;
    `begin` raises it for one that another run is using.
    """

    def __init__(
        self, checkpoint_path: Path, find_reports: Callable[[Path, bool], Iterable[Path]] = lambda *_: ()
    ) -> None:
        save_dir = checkpoint_path.parent
        self.find_reports = find_reports
        self.checkpoint_path = checkpoint_path
        self.folder = save_dir / "run"
        self.last_path = self.folder / "last.pth"
        self.bad_path = self.folder / "bad_photos.txt"
        self.job_path = self.folder / "job"
        self.begun_path = self.folder / "begun"
        self.earlier = self.folder / "earlier"
        self.saved_at, self.saved_epoch = time.monotonic(), 0
        self.lock = FileLock(self.folder / "lock")  # which dies with its process
        self.mine = False  # whether what lies here is this run's
        self.has_saved = False  # whether this process has written any of it
        self.has_begun = False  # whether this process has left word that a new run begins
        self.on_save: Callable[[], None] | None = None
        for folder in (save_dir, self.folder):
            check_writable(folder, "save_dir")
        for path in (self.checkpoint_path, self.last_path):
            if path.is_dir():
                raise InputError(f"cannot be used: {path} is a folder, not a file", "save_dir")
        if checkpoint_path.name != CHECKPOINT_FILE and checkpoint_path.exists() and not is_ours(checkpoint_path):
            raise InputError(
                f"{checkpoint_path} is a file that train.py did not write, and stays: name another one, or remove it",
                "save_dir",
            )

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None:  # else torchrun may start the job again
            self.job_path.unlink(missing_ok=True)
        by_the_machine = isinstance(error, Stopped) and error.code != STOPPED_BY_CTRL_C
        if self.has_begun and not by_the_machine:  # the person knows that it ended, and what lies here is as it was
            self.begun_path.unlink(missing_ok=True)
        self.lock.release()

    def begin(self) -> None:
        """Make the folders, and keep other runs out from here on. Raises InputError if another run is using them."""
        if self.lock.is_locked:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(timeout=0)
            if self.job_in_folder() != job_name():
                self.job_path.unlink(missing_ok=True)  # of a job that was killed altogether
        except Timeout:
            save_dir = self.checkpoint_path.parent
            raise InputError(
                f"{save_dir}: another run is training into it; give this one its own", "save_dir"
            ) from None
        except NotImplementedError:
            warn(f"no locks on the file system of {self.folder}: see to it that no other run uses it")
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written to: {error.strerror}", "save_dir") from None

    def after_restart(self, config: TrainConfig) -> TrainConfig:
        """Return the options, with `resume` if torchrun has restarted this job after it saved something.

        Until then the files here are an earlier run's, and a restarted job starts over.
        """
        return replace(config, resume=True) if job_name() and self.job_in_folder() == job_name() else config

    def job_in_folder(self) -> str:
        """Return the name of the job that saved here last; empty if it ended well, or there was none."""
        with contextlib.suppress(OSError, ValueError):
            return self.job_path.read_text(encoding="utf-8")
        return ""

    def leave_word(self, config: TrainConfig) -> None:
        """Write down that a new run begins here, and with which options, until it has saved something.

        Whoever resumes a run that was killed before that means this one, and not the one that was here before it.
        """
        before = sha256_of_file(self.last_path) if self.last_path.exists() else None
        try:
            write_whole(self.begun_path, json.dumps({"before": before, "options": config.begun}).encode())
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written to: {error.strerror}", "save_dir") from None
        self.has_begun = True

    def as_begun(self, config: TrainConfig) -> TrainConfig:
        """Return the options of a run; if it resumes one that has saved nothing, those to start that again with.

        Raises InputError if another run is using the folder.
        """
        if not (config.resume and self.begun_path.exists()):
            return config
        self.begin()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it says nothing that can be used
            begun = json.loads(self.begun_path.read_bytes())
            now = sha256_of_file(self.last_path) if self.last_path.exists() else None
            if begun["before"] == now:  # else it has saved, and died before it could remove the word
                config = config.starting_again(begun["options"])
                options = ", with --tune" if config.tune else ""
                earlier = "; the run that was here before is kept in run/earlier" if now else ""
                note(f"the run that began here last had saved nothing: starting it again{options}{earlier}")
        return config

    def read_last(self) -> Finished | None:
        """Return what the last run saved here, and keep other runs out; if there is nothing, say so."""
        if not self.last_path.exists():
            note(f"nothing to resume in {self.checkpoint_path.parent}: starting at epoch 1")
            return None
        self.begin()
        saved = read_tensors(self.last_path, mmap=False)  # training replaces the file while its tensors are used
        check_digest(self.last_path, saved)
        with errors_as_input_error(self.last_path):
            return Finished.from_plain(saved)

    def go_on(self, state: TrainState, saved: Finished, second: FineTuning | None = None) -> None:
        """Restore the state that `read_last` returned; from now on the files here are this run's.

        `second`: the recipe of the second stage, if that had begun.
        """
        with errors_as_input_error(self.last_path):
            state.restore(saved, second)
        self.mine, self.saved_epoch = True, state.epoch

    def list_bad(self, lines: list[str]) -> None:
        """Write the list of photos that cannot be used; without any, remove the list of an earlier run."""
        try:
            if lines:
                self.bad_path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
            else:
                self.bad_path.unlink(missing_ok=True)
        except OSError as error:
            warn(f"cannot write {self.bad_path}: {error.strerror}")

    @contextlib.contextmanager
    def saving(self, state: TrainState, on_save: Callable[[], None] | None = None) -> Iterator[None]:
        """Save what the finished epochs have reached, whatever ends them; call `on_save` after each save."""
        self.on_save = on_save
        try:
            yield
        except (KeyboardInterrupt, BrokenPipeError):  # Ctrl-C, or `head` has read enough of stdout
            if state.epoch:
                note(f"stopped after epoch {state.epoch}; the same command with --resume goes on from there")
            raise
        finally:
            self.save(state)

    def save_if_due(self, state: TrainState) -> None:
        """Save if SAVE_EVERY seconds have passed since the last time."""
        if time.monotonic() - self.saved_at >= SAVE_EVERY:
            self.save(state)

    def save(self, state: TrainState, anyway: bool = False) -> None:
        """Write the state and the checkpoint of the finished epochs, unless both are there already.

        With `anyway` the state is written even then: its options may be new.
        The state is written first: it holds the best epoch too, so a run that is killed before it writes the checkpoint
        mends that when it is resumed. A run that finished no epoch leaves everything as it was.
        """
        if not state.epoch:
            return
        if state.epoch == self.saved_epoch and self.is_written(state):
            if anyway:
                write_atomically(self.last_path, state.finished.to_plain())
            return
        with signals_held():
            if not self.has_saved:
                self.archive_previous_run()
            write_atomically(self.last_path, state.finished.to_plain())
            self.begun_path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # without it, a restarted job only starts over
                if name := job_name():
                    self.job_path.write_text(name, encoding="utf-8")
            state.best_checkpoint().save(self.checkpoint_path)
            if self.on_save:
                self.on_save()
        self.saved_at, self.saved_epoch, self.has_saved = time.monotonic(), state.epoch, True

    def archive_previous_run(self) -> None:
        """Archive what an earlier run left here: its checkpoint may be better than what this run will reach.

        If the files here are this run's own, from before it was resumed, only remove the reports on them, and name
        their folders outside run/, which a person made.
        """
        try:
            reports = self.find_reports(self.checkpoint_path, self.mine)
            if self.mine:
                present = [path for path in reports if os.path.lexists(path)]
                if elsewhere := sorted({path.parent for path in present if path.parent != self.folder}):
                    note(f"the checkpoint changes, so what evaluated it goes: {first_few(elsewhere)}")
                remove(present)
            elif archive := self.archive(reports):
                note(f"what an earlier run left here is kept in {archive}")
        except OSError as error:
            raise RunError(f"cannot write to {error.filename}: {error.strerror}") from error
        self.mine = True

    def is_written(self, state: TrainState) -> bool:
        """Say whether the checkpoint here holds the best epoch, undamaged.

        All but the tensors is compared; the digest vouches for the tensors.
        """
        expected = state.best_checkpoint().to_plain()
        try:
            stored = read_tensors(self.checkpoint_path)
            comparable = {key: value for key, value in expected.items() if key not in TENSORS}
            if any(stored.get(key) != value for key, value in comparable.items()):
                return False
            if any((stored.get(key) is None) != (expected[key] is None) for key in TENSORS):
                return False
            check_digest(self.checkpoint_path, stored)
        except InputError:
            return False
        return True

    @property
    def earlier_folders(self) -> list[Path]:
        """The folders of earlier runs."""
        return [path for path in self.earlier.glob("*") if path.name.isdecimal()]

    def archive(self, reports: Iterable[Path]) -> Path | None:
        """Move what an earlier run left to the folder of the next number; return that, or None if there was nothing.

        `reports` are the files and folders that reports on it consist of. Whatever else lies there stays: run/ may be a
        folder of the person's own. So does the list of bad photos, which is the new run's already.

        Its checkpoint and its state get a second name there. Under their own names they stay until new ones replace
        them, so there is a whole checkpoint at any moment. All else goes: a report on an earlier run beside a new
        checkpoint would be taken for a report on that. Raises OSError where the disk refuses.
        """
        going = [*(self.folder / name for name in OLD_STATES), *reports]
        files = [path for path in (self.checkpoint_path, self.last_path) if path.is_file()]
        for path in going:
            below = sorted(path.rglob("*")) if path.is_dir() else [path]
            files += [file for file in below if file.is_file()]
        if not files:
            return None
        archive = self.earlier / str(1 + max((int(folder.name) for folder in self.earlier_folders), default=0))
        beginning = archive.with_name(".beginning")
        shutil.rmtree(beginning, ignore_errors=True)  # a process died while it did this
        for path in files:
            second = beginning / path.relative_to(self.checkpoint_path.parent)
            second.parent.mkdir(parents=True, exist_ok=True)
            hardlink(path, second)
        beginning.rename(archive)
        sync_folder(archive.parent)
        remove(going)
        return archive

    def best_earlier(self, valid: str) -> EarlierRun | None:
        """Return the earlier run with the highest validation accuracy, if possible one with these validation photos.

        `valid`: the fingerprint of the validation photos. Runs whose state or checkpoint is gone or damaged do not
        count.
        """
        runs = []
        for folder in self.earlier_folders:
            state, checkpoint = folder / "run" / "last.pth", folder / self.checkpoint_path.name
            try:
                with errors_as_input_error(folder):
                    finished, written = Finished.from_plain(read_tensors(state)), read_tensors(checkpoint)
                    best = written["history"][written["training"]["epoch"] - 1]
                    # A run that was killed while it saved may have left a state beside another run's checkpoint
                    is_of_run = best in finished.history
                    comparable = is_of_run and finished.identity is not None and finished.identity.valid == valid
                    runs.append(EarlierRun(checkpoint, best["valid_accuracy"], comparable))
            except InputError:
                continue
        return max(runs, key=lambda earlier: (earlier.comparable, earlier.accuracy), default=None)


def is_ours(path: Path) -> bool:
    """Say whether a file is a checkpoint of ours, by the keys that it holds."""
    try:
        return {"format_version", DIGEST} <= read_tensors(path).keys()
    except InputError:
        return False


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders, and parent folders that this leaves empty. Raises OSError where the disk refuses."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not empty
            path.parent.rmdir()
