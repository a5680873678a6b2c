"""Where a training run stands, and what it leaves in --save_dir.

checkpoint.pth          the best epoch, complete in itself
training/last.pth       the state after the last saved epoch, for --resume
training/previous.pth   the checkpoint that an earlier run had left here
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model_utils import Checkpoint, read_tensors, save_checkpoint, write_atomically
from terminal import InputError, note, reason_of

SAVE_EVERY = 10  # seconds: an epoch of head training may take less time than writing its files does

Row = dict[str, float]  # epoch, train_loss, valid_loss, valid_accuracy


@dataclass
class TrainState:
    """The checkpoint in the making, and whatever else changes while training; saved and restored whole."""

    checkpoint: Checkpoint
    optimizer: torch.optim.Optimizer
    identity: dict[str, object]  # model and data: what must be the same for the numbers to mean anything
    epoch: int = 0  # finished epochs
    best: Row = field(default_factory=dict)  # the best epoch's row of the history
    best_trained: dict[str, torch.Tensor] = field(default_factory=dict)  # and its tensors

    def record(self, train_loss: float, valid_loss: float, valid_accuracy: float) -> Row:
        """Note a finished epoch, and keep its tensors if it is the best by validation accuracy, then loss."""
        self.epoch += 1
        losses = {"train_loss": train_loss, "valid_loss": valid_loss}
        row = {"epoch": self.epoch, **losses, "valid_accuracy": valid_accuracy}
        self.checkpoint.history.append(row)
        if not self.best or rank(row) > rank(self.best):
            trained = self.checkpoint.classifier.trained_state()
            self.best, self.best_trained = row, {name: tensor.clone() for name, tensor in trained.items()}
            self.checkpoint.training["epoch"] = self.epoch
        return row

    def state_dict(self) -> dict[str, object]:
        """Return the state in plain types and tensors."""
        return {
            "identity": self.identity,
            "epoch": self.epoch,
            "history": self.checkpoint.history,
            "best": self.best,
            "best_trained": self.best_trained,
            "trained": self.checkpoint.classifier.trained_state(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned; the learning rate stays the optimizer's own.

        Raises InputError where the state belongs to another model or to other data.
        """
        refuse_other_identity(state["identity"], self.identity)
        learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, learning_rate in zip(self.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = learning_rate
        self.checkpoint.classifier.load_state_dict(state["trained"], strict=False)
        self.checkpoint.history = state["history"]
        self.checkpoint.training["epoch"] = state["best"]["epoch"]
        self.epoch, self.best, self.best_trained = state["epoch"], state["best"], state["best_trained"]


def rank(row: Row) -> tuple[float, float]:
    """Order epochs: by validation accuracy, equal ones by lower validation loss."""
    return row["valid_accuracy"], -row["valid_loss"]


def refuse_other_identity(saved: dict[str, object], now: dict[str, object]) -> None:
    """Refuse to resume a run of another model or on other data, naming the first difference."""
    for what, value in now.items():
        if saved[what] != value:
            shown = isinstance(value, str | int) and what.startswith("--")
            change = f"{what} was {saved[what]}, now {value}" if shown else f"the {what} are not the same any more"
            raise InputError(f"--resume: {change}; put that back, or train without --resume")


class RunFolder:
    """The files of one run. Raises InputError at once for a folder that cannot be written."""

    def __init__(self, save_dir: Path) -> None:
        self.checkpoint_path = save_dir / "checkpoint.pth"
        self.last_path = save_dir / "training" / "last.pth"
        self.previous_path = save_dir / "training" / "previous.pth"
        self.saved_at = time.monotonic()
        self.owned = False  # whether the checkpoint that lies here is this run's own
        try:
            self.last_path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (save_dir, self.last_path.parent):
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise InputError(f"--save_dir: cannot write to {save_dir}: {error.strerror}") from None

    def resume(self, state: TrainState) -> None:
        """Restore the state that the last run saved here; without one, say so and leave the state as it is."""
        if not self.last_path.exists():
            note(f"nothing to resume in {self.checkpoint_path.parent}: starting at epoch 1")
            return
        try:
            state.load_state_dict(read_tensors(self.last_path))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"{type(error).__name__}: {reason_of(error)}"
            raise InputError(f"--resume: {self.last_path} is damaged ({what}); train without --resume") from error
        self.owned = True

    def save_if_due(self, state: TrainState, at_once: bool) -> None:
        """Write both files if `at_once`, or if SAVE_EVERY seconds have passed since they were last written.

        The checkpoint goes first: a run killed between the two resumes earlier, and writes the same one again.
        """
        if not at_once and time.monotonic() - self.saved_at < SAVE_EVERY:
            return
        if not self.owned:
            self.keep_earlier_checkpoint()
        save_checkpoint(self.checkpoint_path, state.checkpoint, state.best_trained)
        write_atomically(self.last_path, state.state_dict())
        self.saved_at, self.owned = time.monotonic(), True

    def keep_earlier_checkpoint(self) -> None:
        """Put an earlier run's checkpoint aside: it may be better than what this run will reach."""
        if not self.checkpoint_path.is_file():
            return
        aside = self.previous_path.with_suffix(".tmp")
        aside.unlink(missing_ok=True)
        try:
            os.link(self.checkpoint_path, aside)  # a second name: checkpoint.pth never goes missing
        except OSError:  # a file system without hard links
            shutil.copy2(self.checkpoint_path, aside)
        aside.replace(self.previous_path)
        note(f"the checkpoint of an earlier run is now {self.previous_path}")
