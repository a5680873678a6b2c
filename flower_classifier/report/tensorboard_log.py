"""The report for tensorboard, where that is installed: the epochs' numbers and the pictures."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flower_classifier.base.errors import InputError
from flower_classifier.report.report_files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_tensorboard() -> None:
    """Raise InputError where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("needs tensorboard, which is not installed: pip install tensorboard", "tensorboard")


def write_tensorboard(folder: Path, history: Sequence[dict[str, float]], figures: dict[str, Figure]) -> None:
    """Write the epochs' numbers and the pictures for tensorboard, instead of what was in the folder."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder), SummaryWriter(folder) as writer:
        for row in history:
            for key, value in row.items():
                if key != "epoch":
                    writer.add_scalar(key, value, row["epoch"])
        for name, figure in figures.items():
            figure.canvas.draw()
            pixels = np.asarray(figure.canvas.buffer_rgba())[:, :, :3]  # (H, W, 3)
            writer.add_image(name, pixels, history[-1]["epoch"], dataformats="HWC")
