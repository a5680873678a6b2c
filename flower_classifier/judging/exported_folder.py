"""How a folder that export.py wrote is told from a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

MODEL_FILE = "model.onnx"  # the network, from pixels to logits
CARD_FILE = "classifier.json"  # all else that answers are made by


def is_exported(path: Path) -> bool:
    """Say whether a path is an exported folder; one of its two main files may be missing."""
    return any(os.path.isfile(path / name) for name in (MODEL_FILE, CARD_FILE))  # noqa: PTH113 -- Path.is_file() may raise
