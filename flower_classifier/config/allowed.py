"""The numbers, words and files that commands and checkpoints may have, and the defaults that several of them share.

They stand apart from the networks, so that they are known without torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from flower_classifier.base.options import Limits

DEFAULT_IMAGE_SIZE = 32  # pixels, of the pictures that cnn takes: as in CIFAR-10
IMAGE_SIZE = Limits(least=8, most=1024, unit="pixels")
DEFAULT_HIDDEN_UNITS = 512  # of the one hidden layer that a head on a pretrained backbone has
LAYER_WIDTH = Limits(least=1, most=10**6)  # of a hidden layer of the head
MOST_LAYERS = 100  # hidden ones, of the head
DROPOUT = Limits(least=0, below=1)
UNFREEZE = ("last", "all")  # which of a pretrained backbone's layers fine-tuning may change
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20  # between which calibration looks for one
TEMPERATURE = Limits(least=LEAST_TEMPERATURE, most=MOST_TEMPERATURE)
MOST_SCORED = 10_000  # validation photos that a checkpoint keeps the scores of

DEFAULT_TOP_K = 5
DEFAULT_SETS = 95.0  # percent of the sets that hold the true class, where a program does not say
DEFAULT_RATE = 5.0  # percent of the photos of known classes that are taken for strangers
FORMATS = ("text", "json", "jsonl", "csv")  # in which predictions are written; formats.py says how


# --------------------------------------------------------------------------------------------------- an exported folder


MODEL_FILE = "model.onnx"  # the network, from pixels to logits
CARD_FILE = "classifier.json"  # all else that answers are made by


def is_exported(path: Path) -> bool:
    """Say whether a path is an exported folder; one of its two main files may be missing."""
    return any(os.path.isfile(path / name) for name in (MODEL_FILE, CARD_FILE))  # noqa: PTH113 -- Path.is_file() may raise
