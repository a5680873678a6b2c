"""Name what is in photos, by a checkpoint that train.py wrote, or by a folder that export.py made of one.

    import flower_classifier as fc

    predictor = fc.load("checkpoint.pth")           or fc.load("rose_app"), which needs no torch
    answer = predictor("rose.jpg")                  [{"class": "74", "name": "rose", "probability": 0.96}, …]
    answer.known, answer.set                        True, ["74"]: of the classes at all; which it may be
    predictor([image, data, "b.jpg"], top_k=1)      several photos: Pillow images, bytes, arrays, paths

Importing this changes nothing and loads nothing heavy; torch comes with the first `load` of a checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.messages import InputError, RunError

if TYPE_CHECKING:  # what `load` returns
    from flower_classifier.predicting.base_predictor import BasePredictor

__all__ = ["InputError", "RunError", "__version__", "load"]
__version__ = "0.1.0"


def load(path: str | Path, gpu: bool = False, category_names: str | Path | None = None) -> BasePredictor:
    """Return a predictor: call it with a photo, or a list of photos.

    `path`: a checkpoint, a folder that holds one, or a folder that export.py made of one. `gpu`: use CUDA or Apple's
    MPS where there is one; an exported folder runs on the CPU. `category_names`: a JSON file of names that people use
    now, by class folder. Raises InputError for a file that train.py did not write or a folder that holds neither,
    RunError where onnxruntime is missing that a folder needs.
    """
    from flower_classifier.base.messages import NEEDED, check_installed
    from flower_classifier.config.allowed import checkpoint_in, is_exported
    from flower_classifier.photos.category_names import load_category_names

    path, names = Path(path), Path(category_names) if category_names else None
    if is_exported(path):
        from flower_classifier.predicting.exported_predictor import ExportedPredictor

        return ExportedPredictor(path, names)
    path = checkpoint_in(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder that export.py did not write, and holds no checkpoint.pth")
    check_installed(NEEDED)
    try:
        from flower_classifier.networks.checkpoint import Checkpoint
        from flower_classifier.networks.devices import choose_device
        from flower_classifier.predicting.predictor import Predictor
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("flower_classifier."):
            raise
        reason = "this copy of the package, in an exported folder, reads such folders alone"
        raise InputError(f"{path}: {reason}") from None
    checkpoint = Checkpoint.load(path)
    stored = load_category_names(names, checkpoint.classes, checkpoint.category_names)
    return Predictor(checkpoint, choose_device(gpu), stored)
