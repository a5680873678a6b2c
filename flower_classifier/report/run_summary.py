"""summary.json: a whole run in one file, for programs that compare runs.

It is written last of all, with --no_report too. So a run that has one has ended well, and its checkpoint is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch
import torchvision

import flower_classifier
from flower_classifier.base.files import write_whole
from flower_classifier.base.options import given_by
from flower_classifier.base.seconds import Seconds
from flower_classifier.features.inputs import Inputs
from flower_classifier.judging.evaluation import Evaluation
from flower_classifier.networks.devices import device_name
from flower_classifier.networks.frozen import FrozenPart
from flower_classifier.report.report_files import writing
from flower_classifier.report.run_log import RunLog

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT_VERSION = 1


def write_summary(
    folder: Path,
    settings: DataclassInstance,
    checkpoint: Path,
    best_epoch: int,
    evaluations: Mapping[str, Evaluation],
    classes: Sequence[str],
    inputs: Sequence[Inputs],
    log: RunLog,
    started: float,
) -> None:
    """Write the summary of a run whole or not at all. Raises RunError where that fails.

    `settings` is the dataclass of its options, `evaluations` are those of the best epoch by split, `inputs` are the
    splits, `started` is when time.perf_counter() saw it begin. Seconds are those of this process: a run that is resumed
    has more behind it.
    """
    read = sum((part.seconds for part in inputs), Seconds())
    spent = {**asdict(replace(read, training=log.training)), "run": time.perf_counter() - started}
    contents = {
        "format_version": FORMAT_VERSION,
        "settings": given_by(settings),
        "epochs": len(log.rows),
        "best_epoch": best_epoch,
        "results": {split: evaluation.results for split, evaluation in evaluations.items()},
        "seconds": {name: round(value, 3) for name, value in spent.items()},
        "versions": versions(),
        "machine": machine_of(inputs[0].frozen),
        "data": data_of(classes, inputs),
        "checkpoint": file_of(checkpoint),
    }
    path = folder / "summary.json"
    with writing(path):
        write_whole(path, f"{json.dumps(plain(contents), indent=2, allow_nan=False)}\n".encode())


def plain(value: object) -> object:
    """Return what JSON has for a value: text for a path, a list for a tuple, null for a number that is none."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Return the versions of this program and of what its numbers depend on."""
    return {
        "flower_classifier": flower_classifier.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def machine_of(frozen: FrozenPart) -> dict[str, object]:
    """Return what a run's time, and the last bits of its numbers, depend on."""
    return {
        "device": frozen.device.type,
        "name": device_name(frozen.device),
        "threads": torch.get_num_threads(),
        "precision": frozen.precision_name,
        "system": platform.platform(),
    }


def data_of(classes: Sequence[str], inputs: Sequence[Inputs]) -> dict[str, object]:
    """Return what a run saw: its number of classes, the photos it used by split, and those that it could not open."""
    return {
        "classes": len(classes),
        "photos": {part.split.name: len(part.used) for part in inputs},
        "left_out": [photo for part in inputs for photo in part.left_out],
    }


def file_of(path: Path) -> dict[str, str]:
    """Return where a file is and the SHA-256 of its bytes. Raises RunError where it cannot be read."""
    digest = hashlib.sha256()
    with writing(path), path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"file": str(path), "sha256": digest.hexdigest()}
