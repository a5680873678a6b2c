"""Name what is in photos, by a checkpoint that train.py wrote.

    import flower_classifier as fc

    predictor = fc.load("checkpoint.pth")
    predictor("rose.jpg")            [{"class": "74", "name": "rose", "probability": 0.96}, …]
    predictor([image, data, "b.jpg"], top_k=1)      several photos: Pillow images, bytes, arrays, paths

Importing this changes nothing and loads nothing heavy; torch comes with the first `load`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flower_classifier.base.errors import InputError, RunError

if TYPE_CHECKING:
    from flower_classifier.judging.predictor import Predictor

__all__ = ["InputError", "RunError", "__version__", "load"]
__version__ = "0.1.0"


def load(path: str | Path, gpu: bool = False) -> Predictor:
    """Return a predictor: call it with a photo, or a list of photos.

    `gpu`: use CUDA or Apple's MPS where there is one. Raises InputError for a file that train.py did not write.
    """
    from flower_classifier.judging.predictor import Predictor
    from flower_classifier.networks.checkpoint import load_checkpoint
    from flower_classifier.networks.devices import choose_device

    return Predictor(load_checkpoint(Path(path)), choose_device(gpu))
