"""The report for tensorboard, where that is installed: a point per epoch while a run goes on; at its end the rest."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.errors import InputError
from flower_classifier.base.options import given_by
from flower_classifier.report.report_files import writing
from flower_classifier.report.tables import Record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from matplotlib.figure import Figure

    from flower_classifier.judging.evaluation import Evaluation


def check_tensorboard() -> None:
    """Raise InputError where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("needs tensorboard, which is not installed: pip install tensorboard", "tensorboard")


class TensorboardLog:
    """The epochs' numbers in a folder for tensorboard, instead of what was in it.

    What is added is forced out at once, so that a killed run has it too. Raises RunError where that fails.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        with writing(folder):
            self.writer = SummaryWriter(folder)

    def add(self, rows: Sequence[Record]) -> None:
        """Add epochs' numbers. Raises RunError."""
        with writing(self.folder):
            for row in rows:
                for key, value in row.items():
                    if key != "epoch":
                        self.writer.add_scalar(key, value, row["epoch"])
            self.writer.flush()

    def close(self) -> None:
        """End writing."""
        with contextlib.suppress(OSError):  # which `add` has told
            self.writer.close()


def finish_tensorboard(
    folder: Path,
    epoch: int,
    figures: Mapping[str, Figure],
    settings: DataclassInstance,
    evaluations: Mapping[str, Evaluation],
) -> None:
    """Add what is known at the end of a run: its pictures, its options, and its results by split, as scalars.

    `settings` is a dataclass, `epoch` the best one, which the results are of. Raises RunError where that fails.
    """
    from torch.utils.tensorboard import SummaryWriter

    from flower_classifier.report.figures import pixels_of

    results = {
        f"{split}/{name}": float(number)
        for split, evaluation in evaluations.items()
        for name, number in evaluation.results.items()
    }
    options = {
        name: value if isinstance(value, bool | int | float) else str(value)
        for name, value in given_by(settings).items()
    }
    with writing(folder), SummaryWriter(folder) as writer:
        for name, figure in figures.items():
            writer.add_image(name, pixels_of(figure)[:, :, :3], epoch, dataformats="HWC")
        writer.add_hparams(options, results, run_name=".", global_step=epoch)
