"""checkpoint.pth: all that predicting needs, in one file that a stranger may have written.

The file holds plain dicts, lists, strings, numbers and tensors, so that `torch.load` with `weights_only=True` takes
it, and takes it without pretrained weights or a network. docs/checkpoint.md lists its keys.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

import torch

from flower_classifier.base.errors import InputError
from flower_classifier.config.allowed import DROPOUT, LAYER_WIDTH, MOST_LAYERS, MOST_SCORED, TEMPERATURE
from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.classifier import LEARNS, Classifier, ModelConfig, build_head
from flower_classifier.networks.feature_bank import FeatureBank
from flower_classifier.networks.safe_files import (
    Plain,
    check_digest,
    errors_as_input_error,
    kind_of_contents,
    read_tensors,
    write_atomically,
)
from flower_classifier.networks.source import black_picture
from flower_classifier.photos.views import Preprocessing

FORMAT_VERSION = 5  # the only one that is read


class Row(TypedDict):
    """One epoch's numbers."""

    epoch: int
    train_loss: float  # of the parameters as they were
    valid_loss: float  # of their average, as is the accuracy
    valid_accuracy: float


@dataclass(frozen=True)
class Checkpoint:
    """A trained classifier: its tensors and architecture, the names of its outputs, and how it was trained."""

    model: ModelConfig
    preprocessing: Preprocessing
    classes: tuple[str, ...]  # class folders, in the order of the logits
    tensors: Mapping[str, torch.Tensor]  # the classifier's state dict, at the best epoch
    category_names: dict[str, str] = field(default_factory=dict)  # class folder -> what people call it
    training: Plain = field(default_factory=dict)  # epoch, epochs, learning_rate, …
    history: list[Row] = field(default_factory=list)  # one row per epoch
    temperature: float = 1.0  # by which logits are divided before they become probabilities
    # Probabilities of the validation photos' true classes, lowest first: sets of classes are made from them
    set_scores: list[float] = field(default_factory=list)
    memory: FeatureBank | None = None  # of the training photos
    # Validation scores for out-of-distribution detection, float64 (N, 2). Only beside a memory
    stranger_scores: torch.Tensor | None = None

    @property
    def tells_strangers(self) -> bool:
        """Whether it knows what photos of its classes look like, and so which are none."""
        return self.memory is not None and self.stranger_scores is not None

    @property
    def names(self) -> list[str]:
        """What people call the classes, in the order of the logits."""
        return [self.category_names.get(name, name) for name in self.classes]

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The classifier, with these very tensors in it, on the CPU and in eval mode.

        It is built without memory for tensors of its own. Raises ValueError or RuntimeError where they do not fit it.
        """
        backbone = source_of(self.model.arch).build_empty(self.model.arch, self.preprocessing)
        with torch.device("meta"):
            classifier = Classifier(self.model, backbone, build_head(self.model, backbone.width))
        state = classifier.state_dict()
        for name, tensor in state.items():
            if name in self.tensors and self.tensors[name].dtype != tensor.dtype:
                raise ValueError(f"{name} is {self.tensors[name].dtype}, not {tensor.dtype}")
        state.clear()  # of its tensors; it keeps the versions of the modules, which mnasnet asks for
        state.update(self.tensors)
        classifier.load_state_dict(state, assign=True)
        return classifier

    def to_plain(self) -> Plain:
        """Return what the file holds."""
        return {
            "format_version": FORMAT_VERSION,
            "arch": self.model.arch,
            "learns": self.model.learns,
            "hidden_units": list(self.model.hidden_units),
            "dropout": self.model.dropout,
            "class_to_idx": {name: i for i, name in enumerate(self.classes)},
            "category_names": self.category_names,
            "preprocessing": plain(self.preprocessing),
            "training": self.training,
            "history": self.history,
            "temperature": self.temperature,
            "mirror": self.model.mirror,
            "set_scores": self.set_scores,
            "memory": self.memory.to_plain() if self.memory else None,
            "stranger_scores": self.stranger_scores,
            "state_dict": self.tensors,
        }

    @classmethod
    def from_plain(cls, contents: Plain) -> Checkpoint:
        """Make a checkpoint of what a file holds.

        Raises ValueError, KeyError or TypeError for contents that make no sense.
        """
        classes, names = contents["class_to_idx"], contents["category_names"]
        if len(classes) < 2 or list(classes.values()) != list(range(len(classes))):
            raise ValueError("class_to_idx does not count from 0")
        if not all(isinstance(name, str) for name in (*classes, *names, *names.values())):
            raise ValueError("names that are no text")
        return cls(
            model=model_of(contents),
            preprocessing=preprocessing_of(contents),
            classes=tuple(classes),
            tensors=contents["state_dict"],
            category_names=names,
            training=contents["training"],
            history=contents["history"],
            temperature=temperature_of(contents),
            set_scores=set_scores_of(contents),
            memory=memory_of(contents),
            stranger_scores=stranger_scores_of(contents),
        )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises RunError where the disk refuses; the file that was there before is then untouched.
    """
    write_atomically(path, checkpoint.to_plain())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, and build its classifier. Raises InputError for a file that is not as train.py wrote it."""
    contents = read_tensors(path)
    version = contents.get("format_version")
    if not isinstance(version, int) or "state_dict" not in contents:
        kind = kind_of_contents(path, contents) or "it holds something else"
        raise InputError(f"{path} is no checkpoint that train.py wrote: {kind}")
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format {version}, this program reads {FORMAT_VERSION}: {what_to_do(version)}")
    check_digest(path, contents)
    with errors_as_input_error(path):
        checkpoint = Checkpoint.from_plain(contents)
        check_runs(checkpoint)
    return checkpoint


def what_to_do(version: int, current: int = FORMAT_VERSION) -> str:
    """Say what helps against a file of another format."""
    return "update the program" if version > current else "an earlier version wrote it; train again"


def check_runs(checkpoint: Checkpoint) -> None:
    """Build the classifier, and run it on a black picture of a size not its own; raise whatever that raises.

    Raises ValueError too where the memory does not fit the classifier.
    """
    classifier, arch, side = checkpoint.classifier, checkpoint.model.arch, checkpoint.preprocessing.crop_size
    if checkpoint.memory:
        checkpoint.memory.check(classifier.feature_width, len(checkpoint.classes))
    if side != source_of(arch).weights(arch, "none", None).preprocessing.crop_size:
        with torch.inference_mode():
            classifier(black_picture(classifier, side, torch.uint8))


def model_of(contents: Plain) -> ModelConfig:
    """Return what the model is made of. Raises ValueError for what no model has."""
    arch, hidden_units = contents["arch"], tuple(contents["hidden_units"])
    if len(hidden_units) > MOST_LAYERS:
        raise ValueError(f"{len(hidden_units)} hidden layers")
    if not all(type(width) is int and LAYER_WIDTH.allow(width) for width in hidden_units):
        raise ValueError("hidden layers of impossible widths")
    learns, mirror = contents["learns"], contents["mirror"]
    if not DROPOUT.allow(contents["dropout"]):
        raise ValueError(f"a dropout of {contents['dropout']}")
    if type(mirror) is not bool:
        raise ValueError(f"mirror is {mirror!r}")
    if learns not in LEARNS:
        raise ValueError(f"learns is {learns!r}")
    return ModelConfig(arch, hidden_units, contents["dropout"], len(contents["class_to_idx"]), learns, mirror)


def preprocessing_of(contents: Plain) -> Preprocessing:
    """Return the preprocessing.

    Raises ValueError for sizes that the architecture never takes: the first photo would show it too late.
    """
    numbers = contents["preprocessing"]
    preprocessing = Preprocessing(**{**numbers, "mean": tuple(numbers["mean"]), "std": tuple(numbers["std"])})
    arch, sizes = contents["arch"], (preprocessing.resize_size, preprocessing.crop_size)
    if not source_of(arch).takes(arch, preprocessing):
        raise ValueError(f"{arch} takes no pictures of {sizes[1]} pixels out of {sizes[0]}")
    return preprocessing


def plain(preprocessing: Preprocessing) -> dict[str, object]:
    """Return the preprocessing as a dict of numbers, strings and lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(preprocessing).items()}


def temperature_of(contents: Plain) -> float:
    """Return the temperature. Raises ValueError for one that makes no sense."""
    temperature = contents["temperature"]
    if not isinstance(temperature, float) or not TEMPERATURE.allow(temperature):
        raise ValueError(f"a temperature of {temperature}")
    return temperature


def set_scores_of(contents: Plain) -> list[float]:
    """Return the scores that sets are made from. Raises ValueError for impossible scores."""
    scores = contents["set_scores"]
    if not isinstance(scores, list) or not all(isinstance(score, float) and 0 <= score <= 1 for score in scores):
        raise ValueError("scores for sets that are no probabilities")
    if scores != sorted(scores):
        raise ValueError("scores for sets that are not in order")
    return scores


def memory_of(contents: Plain) -> FeatureBank | None:
    """Return the memory of the training photos, if there is one; `check_runs` checks it."""
    saved = contents["memory"]
    return None if saved is None else FeatureBank(**saved)


def stranger_scores_of(contents: Plain) -> torch.Tensor | None:
    """Return the validation scores for out-of-distribution detection, if there are any.

    Raises ValueError for impossible scores.
    """
    scores = contents["stranger_scores"]
    if scores is None:
        return None
    if contents["memory"] is None or not isinstance(scores, torch.Tensor) or scores.dtype != torch.float64:
        raise ValueError("scores for strangers of another type, or without a memory")
    if scores.layout != torch.strided or scores.dim() != 2 or scores.shape[1] != 2:
        raise ValueError("scores for strangers of another shape")
    if not 0 < len(scores) <= MOST_SCORED or not scores.isfinite().all():
        raise ValueError("scores for strangers of impossible photos, or of too many")
    return scores
