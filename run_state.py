"""Where a training run stands, and what it leaves in --save_dir.

checkpoint.pth          the best epoch, complete in itself
run/last.pth            the state after the last saved epoch, for --resume
run/previous.pth        the checkpoint that the run before had left here,
run/previous_last.pth   and its state
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model_utils import Checkpoint, read_tensors, save_checkpoint, write_atomically
from terminal import InputError, RunError, note, reason_of

SAVE_EVERY = 10  # seconds: an epoch of head training may take less time than writing its files does

Row = dict[str, float]  # epoch, train_loss, valid_loss, valid_accuracy


@dataclass(frozen=True)
class Metrics:
    """Means over the samples of a split."""

    loss: float  # cross-entropy, in nats
    accuracy: float  # 0 to 1


@dataclass
class TrainState:
    """Where training stands: the classifier with the last epoch's tensors, the best epoch's, the optimizer."""

    checkpoint: Checkpoint  # in the making: its classifier is the one in training
    optimizer: torch.optim.Optimizer
    identity: dict[str, object]  # model and data: what must be the same for the numbers to mean anything
    settings: dict[str, object]  # what may change between one part of a run and the next
    epoch: int = 0  # finished epochs
    best: Row = field(default_factory=dict)  # the best epoch's row of the history
    best_trained: dict[str, torch.Tensor] = field(default_factory=dict)  # and its tensors
    finished: dict[str, object] = field(default_factory=dict)  # state_dict() as it was after the last epoch

    def record(self, train_loss: float, valid: Metrics) -> Row:
        """Note a finished epoch, and keep its tensors if it is the best by validation accuracy, then loss."""
        valid_row = {"valid_loss": valid.loss, "valid_accuracy": valid.accuracy}
        row = {"epoch": self.epoch + 1, "train_loss": train_loss, **valid_row}
        trained = copy.deepcopy(self.checkpoint.classifier.trained_state())
        if not self.best or rank(row) > rank(self.best):
            self.best, self.best_trained = row, trained
            self.checkpoint.training["epoch"] = row["epoch"]
        self.checkpoint.training["epochs"] = row["epoch"]
        self.checkpoint.history.append(row)
        self.epoch = row["epoch"]
        # A copy, so that an epoch that is broken off cannot spoil what the finished ones have reached.
        self.finished = {
            "identity": self.identity,
            "settings": self.settings,
            "epoch": self.epoch,
            "history": self.checkpoint.history,
            "best": self.best,
            "best_trained": self.best_trained,
            "trained": trained,
            "optimizer": copy.deepcopy(self.optimizer.state_dict()["state"]),
        }
        return row

    def restore(self, saved: dict) -> None:
        """Restore what `finished` held; how the optimizer steps from here on (its rate, say) stays its own.

        Raises InputError where the state belongs to another model or to other data.
        """
        check_identity(saved["identity"], self.identity)
        report_changes(saved["settings"], self.settings, saved["epoch"] + 1)
        moments = copy.deepcopy(saved["optimizer"])  # which the optimizer will change in place
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.checkpoint.classifier.load_trained_state(saved["trained"])
        self.checkpoint.history = saved["history"]
        self.checkpoint.training |= {"epoch": saved["best"]["epoch"], "epochs": saved["epoch"]}
        self.epoch, self.best, self.best_trained = saved["epoch"], saved["best"], saved["best_trained"]
        self.finished = saved


def rank(row: Row) -> tuple[float, float]:
    """Order epochs: by validation accuracy, equal ones by lower validation loss."""
    return row["valid_accuracy"], -row["valid_loss"]


def check_identity(saved: dict[str, object], now: dict[str, object]) -> None:
    """Refuse to resume a run of another model or on other data, naming the first difference."""
    for what, value in now.items():
        before = saved.get(what)
        if before != value:
            shown = isinstance(value, str | int) and what.startswith("--")
            change = f"{what} was {before}, now {value}" if shown else f"the {what} are not the same any more"
            raise InputError(f"--resume: {change}; put that back, or train without --resume")


def report_changes(saved: dict[str, object], now: dict[str, object], epoch: int) -> None:
    """Say which settings are others from here on."""
    for flag, value in now.items():
        if saved.get(flag) != value:
            note(f"{flag} was {saved.get(flag)}, now {value} from epoch {epoch} on")


class RunFolder:
    """The files of one run. Raises InputError at once for a folder that could not be written."""

    def __init__(self, save_dir: Path) -> None:
        self.checkpoint_path = save_dir / "checkpoint.pth"
        self.folder = save_dir / "run"
        self.last_path = self.folder / "last.pth"
        self.saved_at, self.saved_epoch = time.monotonic(), 0
        for folder in (save_dir, self.folder):
            check_writable(folder)

    def resume(self, state: TrainState) -> None:
        """Restore the state that the last run saved here; without one, say so and leave the state as it is."""
        if not self.last_path.exists():
            note(f"nothing to resume in {self.checkpoint_path.parent}: starting at epoch 1")
            return
        try:
            state.restore(read_tensors(self.last_path, mmap=False))  # the file is replaced while its tensors are used
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"{type(error).__name__}: {reason_of(error)}"
            raise InputError(f"--resume: {self.last_path} is damaged ({what}); train without --resume") from error

    def begin(self, state: TrainState) -> None:
        """Make the folders, and put aside what an earlier run has left here, unless `state` is that run's.

        Its checkpoint may be better than what this run will reach; its state must not be taken for this run's.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if state.epoch == 0:
                keep_as(self.checkpoint_path, self.folder / "previous.pth")
                if self.last_path.exists():
                    self.last_path.replace(self.folder / "previous_last.pth")
        except OSError as error:
            raise RunError(f"cannot write to {error.filename}: {error.strerror}") from error

    def save_if_due(self, state: TrainState) -> None:
        """Save if SAVE_EVERY seconds have passed since the last time."""
        if time.monotonic() - self.saved_at >= SAVE_EVERY:
            self.save(state)

    def save(self, state: TrainState) -> None:
        """Write checkpoint and state as they were after the last finished epoch, unless that has been done.

        The checkpoint goes first: a run killed between the two resumes earlier, and writes the same one again.
        """
        if state.epoch == self.saved_epoch:
            return
        save_checkpoint(self.checkpoint_path, state.checkpoint, state.best_trained)
        write_atomically(self.last_path, state.finished)
        self.saved_at, self.saved_epoch = time.monotonic(), state.epoch


def keep_as(path: Path, aside: Path) -> None:
    """Give a file, if there is one, a second name; under its own it stays until something new replaces it."""
    if not path.is_file():
        return
    temporary = aside.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        shutil.copy2(path, temporary)
    temporary.replace(aside)
    note(f"{path} of an earlier run is kept as {aside}")


def check_writable(folder: Path) -> None:
    """Raise InputError unless files can be written to a folder, or to the nearest one above that exists."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"--save_dir: cannot write to {existing}: {error.strerror}") from None
