"""What a run leaves of itself: history.csv and points for tensorboard while it goes on, summary.json at its end.

tensorboard, where it is installed, gets the pictures and results at the end. A search leaves a table and a picture of
all heads that were tried. summary.json is a whole run in one file, for programs that compare runs. It is written last
of all, with --no_report too. So a run that has one has ended well, and its checkpoint is there.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch
import torchvision

import flower_classifier
from flower_classifier.base.files import sha256_of_file, write_whole
from flower_classifier.base.messages import RunError, warn
from flower_classifier.base.options import Settings
from flower_classifier.features.inputs import Inputs, Timings
from flower_classifier.networks.devices import device_name
from flower_classifier.report.report_files import Record, Table, append_rows, read_table, write_table, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

    from flower_classifier.judging.evaluation import Evaluation
    from flower_classifier.networks.checkpoint import Row

FORMAT_VERSION = 1  # of summary.json


class RunLog:
    """The epochs of a run with the seconds they took; a context manager.

    The seconds are in history.csv alone: checkpoints of equal runs are equal, byte for byte. So a resumed run finds
    those of the epochs behind it (`history`) there. Epochs, and what a search before them has tried (`tuning`), are
    written when the run has saved them, so what is in the folder always belongs to its checkpoint. An error is said
    once, and training goes on: the report at the end tries again.
    """

    def __init__(
        self,
        folder: Path,
        history: Sequence[Row],
        write: bool = True,
        tensorboard: bool = False,
        tuning: Table | None = None,
    ) -> None:
        self.folder, self.path = folder, folder / "history.csv" if write else None
        self.tuning = tuning  # what a search before the first epoch has tried
        self.rows = with_seconds(history, read_table(self.path) if self.path else [])
        self.training = 0.0  # seconds, of the epochs that were added
        self.written = 0  # rows
        self.warned: set[str] = set()
        self.with_tensorboard = tensorboard
        self.writer: SummaryWriter | None = None  # for tensorboard

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.writer:
            with contextlib.suppress(OSError):  # write_points has reported the error
                self.writer.close()

    @property
    def table(self) -> Table:
        """The rows of history.csv, header first."""
        return [list(self.rows[0]), *(list(row.values()) for row in self.rows)]

    def add(self, row: Row, seconds: Timings) -> None:
        """Add a finished epoch."""
        self.rows.append({**row, **timings_columns(seconds)})
        self.training += seconds.training

    def write(self) -> None:
        """Write what was added, now that it is saved."""
        new = self.rows[self.written :]
        with self.going_on():
            self.write_tuning()
        with self.going_on():
            self.write_table(new)
        with self.going_on():
            self.write_points(new)
        self.written = len(self.rows)

    def write_tuning(self) -> None:
        """Write what a search has tried to tuning.csv and tuning.png, unless they are there already.

        A run may have been killed between its save and these. Raises RunError where a file cannot be written.
        """
        paths = self.folder / "tuning.csv", self.folder / "tuning.png"
        if not (self.path and self.tuning) or all(path.exists() for path in paths):
            return
        from flower_classifier.report.charts import draw_tuning
        from flower_classifier.report.pictures import save_figure

        write_table(paths[0], self.tuning)
        header, *heads = self.tuning
        figure = draw_tuning([dict(zip(map(str, header), head, strict=True)) for head in heads])
        save_figure(figure, paths[1])

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Go on where a file cannot be written, and say so once."""
        try:
            yield
        except RunError as error:
            if str(error) not in self.warned:
                warn(f"{error}; training goes on")
            self.warned.add(str(error))

    def write_table(self, new: Sequence[Record]) -> None:
        """Write the rows to history.csv."""
        if self.path and not self.written:
            write_table(self.path, self.table)
        elif self.path:
            append_rows(self.path, [row.values() for row in new])

    def write_points(self, new: Sequence[Record]) -> None:
        """Write the points of the rows for tensorboard, instead of what was in its folder.

        They are forced out at once, so that a killed run has them too.
        """
        if not self.with_tensorboard:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / "tensorboard"
        with writing(folder):
            if not self.writer:
                shutil.rmtree(folder, ignore_errors=True)
                self.writer = SummaryWriter(folder)
            for row in new:
                for key, value in row.items():
                    if key not in ("epoch", *timings_columns(Timings())):
                        self.writer.add_scalar(key, value, row["epoch"])
            self.writer.flush()

    def finish_history(self, best_epoch: int, began: int | None, photos: int) -> dict[str, Figure]:
        """Write all epochs as a table and as curves; return the figure by its name.

        `began`: the number of epochs after which fine-tuning began, where it did. `photos`: how many validated.
        Raises RunError where a file cannot be written.
        """
        from flower_classifier.report.charts import draw_curves
        from flower_classifier.report.pictures import save_figure

        self.write_tuning()
        write_table(self.folder / "history.csv", self.table)
        curves = draw_curves(self.rows, best_epoch, began, photos)
        save_figure(curves, self.folder / "curves.png")
        return {"curves": curves}

    def finish_tensorboard(
        self,
        epoch: int,
        figures: Mapping[str, Figure],
        settings: Settings,
        evaluations: Mapping[str, Evaluation],
    ) -> None:
        """Add what is known at the end of a run: its pictures, its options, and its results by split, as scalars.

        `epoch` is the best one, which the results are of. Raises RunError where that fails.
        """
        from torch.utils.tensorboard import SummaryWriter

        from flower_classifier.report.pictures import pixels_of

        folder = self.folder / "tensorboard"
        results = {
            f"{split}/{name}": float(value)
            for split, evaluation in evaluations.items()
            for name, value in evaluation.results.items()
        }
        options = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in settings.values.items()
        }
        with writing(folder), SummaryWriter(folder) as writer:
            for name, figure in figures.items():
                writer.add_image(name, pixels_of(figure)[:, :, :3], epoch, dataformats="HWC")
            writer.add_hparams(options, results, run_name=".", global_step=epoch)

    def write_summary(
        self,
        settings: Settings,
        checkpoint: Path,
        best_epoch: int,
        evaluations: Mapping[str, Evaluation],
        classes: Sequence[str],
        inputs: Sequence[Inputs],
        started: float,
    ) -> None:
        """Write the summary of a run whole or not at all. Raises RunError where that fails.

        `settings` has its options, `evaluations` are those of the best epoch by split, `inputs` are the
        splits, `started` is time.perf_counter() at its beginning. Seconds are those of this process: a run that is
        resumed has more behind it.
        """
        read, frozen = sum((split_inputs.seconds for split_inputs in inputs), Timings()), inputs[0].frozen
        spent = {**asdict(replace(read, training=self.training)), "run": time.perf_counter() - started}
        with writing(checkpoint):
            digest = sha256_of_file(checkpoint)
        contents = {
            "format_version": FORMAT_VERSION,
            "settings": settings.values,
            "epochs": len(self.rows),
            "best_epoch": best_epoch,
            "results": {split: evaluation.results for split, evaluation in evaluations.items()},
            "seconds": {name: round(value, 3) for name, value in spent.items()},
            "versions": {  # of what the numbers depend on
                "flower_classifier": flower_classifier.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "numpy": np.__version__,
                "pillow": PIL.__version__,
            },
            "machine": {  # what the seconds, and the last bits of the numbers, depend on
                "device": frozen.device.type,
                "name": device_name(frozen.device),
                "threads": torch.get_num_threads(),
                "precision": frozen.precision_name,
                "system": platform.platform(),
            },
            "data": {
                "classes": len(classes),
                "photos": {split_inputs.split.name: len(split_inputs.used) for split_inputs in inputs},
                "left_out": [photo for split_inputs in inputs for photo in split_inputs.left_out],
            },
            "checkpoint": {"file": str(checkpoint), "sha256": digest},
        }
        path = self.folder / "summary.json"
        with writing(path):
            write_whole(path, f"{json.dumps(plain(contents), indent=2, allow_nan=False)}\n".encode())


def timings_columns(seconds: Timings) -> dict[str, float]:
    """Return the columns of history.csv that hold an epoch's seconds."""
    return {f"{name}_seconds": round(value, 3) for name, value in asdict(seconds).items()}


def with_seconds(history: Sequence[Row], table: Sequence[Mapping[str, str]]) -> list[Record]:
    """Add to each epoch the seconds that an earlier history.csv has for it, or empty cells.

    A row of that table counts if all its other numbers are the epoch's own: it may be another run's, or of an epoch
    that was never saved.
    """
    earlier = {row.get("epoch"): row for row in table}
    rows: list[Record] = []
    for epoch in history:
        row = earlier.get(str(epoch["epoch"]), {})
        same = all(row.get(name) == str(value) for name, value in epoch.items())
        rows.append({**epoch, **{name: (row.get(name) or "") if same else "" for name in timings_columns(Timings())}})
    return rows


def plain(value: object) -> object:
    """Return what JSON has for a value: text for a path, a list for a tuple, null for nan and infinity."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
