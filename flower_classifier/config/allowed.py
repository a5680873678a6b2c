"""The numbers, words and files that commands and checkpoints may have, and the defaults that several of them share.

This module imports no network, so the values are available without torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flower_classifier.base.options import Limits

DEFAULT_IMAGE_SIZE = 32  # pixels, of cnn's pictures: as in CIFAR-10
IMAGE_SIZE = Limits(least=8, most=1024, unit="pixels")
DEFAULT_HIDDEN_UNITS = 512  # of the hidden layer of a head on a pretrained backbone
LAYER_WIDTH = Limits(least=1, most=10**6)  # of a hidden layer of the head
MOST_LAYERS = 100  # hidden ones, of the head
DROPOUT = Limits(least=0, below=1)
LAYERS = ("several", "last", "flat")  # whose features a head sees
SHRINKAGE = Limits(least=0.001, most=1)
DEFAULT_SHRINKAGE = 0.4
FITS = ("crop", "pad", "squash")  # how a photo becomes a square
AUGMENTS = ("none", "crops", "mirror", "turns")  # how the views of a training photo differ
UNFREEZE = ("last", "all")  # which of a pretrained backbone's layers fine-tuning may change
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20  # calibration searches between these
TEMPERATURE = Limits(least=LEAST_TEMPERATURE, most=MOST_TEMPERATURE)
MOST_SCORED = 10_000  # validation photos whose scores a checkpoint keeps

DEFAULT_TOP_K = 5
DEFAULT_SETS = 95.0  # percent of the sets that hold the true class, unless a program says otherwise
DEFAULT_RATE = 5.0  # percent of the photos of known classes that may be taken for strangers


def check_calibration(temperature: object, set_scores: object) -> None:
    """Raise ValueError for a temperature, or scores of prediction sets, that no run can have found."""
    if not isinstance(temperature, float) or not TEMPERATURE.allow(temperature):
        raise ValueError(f"a temperature of {temperature}")
    if not isinstance(set_scores, list) or not all(isinstance(x, float) and 0 <= x <= 1 for x in set_scores):
        raise ValueError("scores for sets that are no probabilities")
    if set_scores != sorted(set_scores):
        raise ValueError("scores for sets that are not in order")


# How a photo of none of the classes is told: chosen on 2 to 80 classes of two backbones (docs/strangers.md)
BACKGROUND = 0.9
DOUBT_WEIGHT, OF_FEW_CLASSES = 0.8, 0.5  # of few classes an undecided answer says less
MANY_CLASSES = 10


@dataclass(frozen=True)
class StrangerMeasure:
    """What the distance is by which a stranger is told (judging/strangers.py), and what doubt counts beside it.

    The defaults are what checkpoints have that do not say it.
    """

    background: float = 1.0  # share of a photo's distance from all photos that is taken off that from the nearest class
    doubt_weight: float | None = None  # of the doubt's rank beside the distance's (judging/conformal.py); None: Fisher

    @classmethod
    def for_classes(cls, count: int) -> StrangerMeasure:
        """Return the one that suits so many classes."""
        return cls(BACKGROUND, DOUBT_WEIGHT if count >= MANY_CLASSES else OF_FEW_CLASSES)

    @classmethod
    def from_plain(cls, contents: Mapping[str, Any]) -> StrangerMeasure:  # Any: a file may hold anything
        """Make one of what a file holds. Raises ValueError or TypeError for what makes no sense."""
        contents = dict(contents)
        if "by_probability" in contents:  # as format 7 of checkpoints says it
            contents["doubt_weight"] = None if contents.pop("by_probability") else 0.0
        measure = cls(**contents)
        weight = measure.doubt_weight
        if not (0 <= measure.background <= 1 and (weight is None or (isinstance(weight, float) and 0 <= weight <= 1))):
            raise ValueError("strangers told in a way that does not exist")
        return measure


# --------------------------------------------------------------------------------------------------- an exported folder


MODEL_FILE = "model.onnx"  # the network, from pixels to logits
SPEC_FILE = "classifier.json"  # everything else that a prediction needs


def is_exported(path: Path) -> bool:
    """Say whether a path is an exported folder; one of its two main files may be missing."""
    return any(os.path.isfile(path / name) for name in (MODEL_FILE, SPEC_FILE))  # noqa: PTH113 -- Path.is_file() may raise


CHECKPOINT_FILE = "checkpoint.pth"
CHECKPOINT_ENDINGS = (".pth", ".pt")
WEIGHTS_ENDINGS = (*CHECKPOINT_ENDINGS, ".safetensors")  # a value of --weights with another one may be a name


def checkpoint_in(path: Path) -> Path:
    """Return the checkpoint in a folder: checkpoint.pth, or its only file of that kind; any other path as it is."""
    try:
        if not path.is_dir() or is_exported(path):
            return path
        files = [file for file in path.iterdir() if file.suffix in CHECKPOINT_ENDINGS and file.is_file()]
    except OSError:  # whoever reads it will say why it cannot be read
        return path
    named = [file for file in files if file.name == CHECKPOINT_FILE]
    return (named or files)[0] if named or len(files) == 1 else path
