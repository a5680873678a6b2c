"""Where a training run stands, and what it leaves in --save_dir.

checkpoint.pth          the best epoch, complete in itself
run/bad_photos.txt      the photos that could not be opened, where there are any
run/history.csv, run/curves.png, run/confusion_matrix.png, …: what report.py makes of a run that has ended
run/lock                held while a run is using the folder
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
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch.optim.swa_utils import AveragedModel

from errors import InputError, RunError, is_out_of_memory
from evaluation import Evaluation
from messages import note, warn
from model_utils import Checkpoint, save_checkpoint
from signals import signals_held
from tensor_files import DIGEST, check_digest, read_tensors, write_atomically
from words import counted, first_few, reason_of

DECAY = 8  # how fast the average forgets: of its weight the last tenth of all steps has 60 %; 4 and 16 did as well
SAVE_EVERY = 10  # seconds: an epoch of head training may take less time than writing its files does

Row = dict[str, float]  # epoch, train_loss, valid_loss, valid_accuracy


@torch.no_grad()
def average_in(average: list[torch.Tensor], trainee: list[torch.Tensor], steps_before: torch.Tensor) -> None:
    """Move the average towards the trainee's tensors as they are after a step, the less the more steps there were.

    Polynomial-decay averaging: Shamir & Zhang 2013, section 4. It has the effect of a falling learning rate without
    having to know at which epoch to end, so that a run may be resumed for longer than was planned.
    """
    torch._foreach_lerp_(average, trainee, (DECAY + 1) / (DECAY + 1 + steps_before.item()))


class TrainState:
    """What is being trained, and `finished`: all that is to be kept, as it was after the last finished epoch.

    `finished` is plain types and copies of tensors, replaced whole by every epoch. So an epoch that is broken off,
    wherever that happens, spoils nothing, and saving at any moment saves something that fits together.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        optimizer: torch.optim.Optimizer,
        identity: dict[str, object],
    ) -> None:
        self.checkpoint = checkpoint  # as it would be without having been trained
        self.trainee = checkpoint.classifier.trainee  # what the optimizer steps
        self.optimizer = optimizer
        # What is evaluated and kept. Its batch-norm statistics (cnn's) are the trainee's latest; averaged ones did no
        # better there.
        self.average = AveragedModel(self.trainee, multi_avg_fn=average_in)
        self.finished: dict[str, object] = {
            "identity": identity,  # model and data: what must be the same for the numbers to mean anything
            "epoch": 0,
            "history": [],  # a Row an epoch
            "best": {},  # the best epoch's Row
            "best_trained": {},  # its tensors, averaged
            "trainee": {},  # the last epoch's
            "average": {},
            "optimizer": {},  # the optimizer's moments
            "training": {},  # the settings of the last epoch
            "category_names": checkpoint.category_names,
        }

    @property
    def epoch(self) -> int:
        """Return the number of finished epochs."""
        return self.finished["epoch"]

    @property
    def best(self) -> Row:
        """Return the best epoch's row of the history."""
        return self.finished["best"]

    def record(self, train_loss: float, valid: Evaluation) -> Row:
        """Note a finished epoch, and keep its average if that is the best by validation accuracy, then loss."""
        losses = {"train_loss": train_loss, "valid_loss": valid.loss}
        row = {"epoch": self.epoch + 1, **losses, "valid_accuracy": valid.accuracy}
        average = copy.deepcopy(self.average.state_dict())
        averaged = {name.removeprefix("module."): tensor for name, tensor in average.items() if name != "n_averaged"}
        better = not self.best or rank(row) > rank(self.best)
        best, best_trained = (row, averaged) if better else (self.best, self.finished["best_trained"])
        self.finished = {
            **self.finished,
            "epoch": row["epoch"],
            "history": [*self.finished["history"], row],
            "best": best,
            "best_trained": best_trained,
            "trainee": copy.deepcopy(self.trainee.state_dict()),
            "average": average,
            "optimizer": copy.deepcopy(self.optimizer.state_dict()["state"]),
            "training": {**self.checkpoint.training, "epoch": best["epoch"], "epochs": row["epoch"]},
        }
        return row

    def leave_out(self, photos: list[str], tested: Collection[str]) -> None:
        """Record the photos that the run goes without.

        Raises InputError where a resumed run had others, but for those that are only `tested` at the end.
        """
        before = self.finished["training"].get("skipped", photos)
        if changed := sorted((set(before) ^ set(photos)) - set(tested)):
            raise InputError(
                f"finds {counted(len(changed), 'photo')} that could be opened before and cannot now, or the other way "
                f"round ({first_few(changed)}); put that back, or start a new run",
                "resume",
            )
        self.checkpoint.training["skipped"] = photos

    def restore(self, saved: dict) -> None:
        """Go on from what `finished` held; how the optimizer steps from here on (its rate, say) stays its own.

        Raises InputError where the state belongs to another model or to other data, ValueError where it is damaged.
        """
        check_identity(saved["identity"], self.finished["identity"])
        if saved.keys() != self.finished.keys():
            raise ValueError("it lacks a part")
        moments = copy.deepcopy(saved["optimizer"])  # which the optimizer will change in place
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for parameter, state in self.optimizer.state.items():
            if any(moment.shape not in ((), parameter.shape) for moment in state.values()):
                raise ValueError("the optimizer's moments are another model's")
        self.trainee.load_state_dict(saved["trainee"])
        self.average.load_state_dict(saved["average"])
        self.finished = {**saved, "category_names": self.checkpoint.category_names or saved["category_names"]}

    def best_checkpoint(self, temperature: float = 1.0) -> Checkpoint:
        """Return what goes into checkpoint.pth, with the classifier still in training."""
        kept = {key: self.finished[key] for key in ("category_names", "training", "history")}
        return replace(self.checkpoint, temperature=temperature, **kept)


def rank(row: Row) -> tuple[float, float]:
    """Order epochs: by validation accuracy, equal ones by lower validation loss."""
    return row["valid_accuracy"], -row["valid_loss"]


def check_identity(saved: dict[str, object], now: dict[str, object]) -> None:
    """Refuse to resume a run of another model or on other data, naming the first difference."""
    for what, value in now.items():
        before = saved.get(what)
        if before != value:
            change = f"{what} was {before}, now {value}" if what.startswith("--") else f"{what} changed"
            raise InputError(f"cannot go on: {change}; put that back, or start a new run", "resume")


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
            check_writable(folder)
        for path in (self.checkpoint_path, self.last_path):
            if path.is_dir():
                raise InputError(f"has a folder where a file has to go: {path}", "save_dir")

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
        saved = read_tensors(self.last_path, mmap=False)  # the file is replaced while its tensors are used
        check_digest(self.last_path, saved)
        del saved[DIGEST]
        try:
            state.restore(saved)
            self.mine = True
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            what = f"{type(error).__name__}: {reason_of(error)}"
            raise InputError(
                f"cannot go on: {self.last_path} is damaged ({what}); start a new run", "resume"
            ) from error

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
            write_atomically(self.last_path, state.finished)
            save_checkpoint(self.checkpoint_path, state.best_checkpoint(), state.finished["best_trained"])
        self.saved_at, self.saved_epoch = time.monotonic(), state.epoch

    def save_calibrated(self, state: TrainState, temperature: float) -> None:
        """Write the checkpoint once more, at the end, where another temperature than 1 has been found for it."""
        if temperature != 1:
            with signals_held():
                checkpoint, trained = state.best_checkpoint(temperature), state.finished["best_trained"]
                save_checkpoint(self.checkpoint_path, checkpoint, trained)

    def put_aside(self) -> None:
        """Keep what an earlier run has left here: its checkpoint may be better than what this run will reach."""
        try:
            keep_as(self.last_path, self.previous_last_path)
            if keep_as(self.checkpoint_path, self.previous_path):
                note(f"{self.checkpoint_path} of an earlier run is kept as {self.previous_path}")
        except OSError as error:
            raise RunError(f"cannot write to {error.filename}: {error.strerror}") from error
        self.mine = True


def keep_as(path: Path, aside: Path) -> bool:
    """Give a file a second name, if there is one; under its own it stays until something new replaces it."""
    if not path.is_file():
        return False
    temporary = aside.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        shutil.copy2(path, temporary)
    temporary.replace(aside)
    temporary.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing
    return True


def check_writable(folder: Path) -> None:
    """Raise InputError unless files can be written to a folder, or to the nearest one above that exists."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"{existing} cannot be written to: {error.strerror}", "save_dir") from None
