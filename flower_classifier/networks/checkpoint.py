"""checkpoint.pth: all that predicting needs, in one file that a stranger may have written.

The file holds plain dicts, lists, strings, numbers and tensors, so that `torch.load` with `weights_only=True` takes
it, and takes it without pretrained weights or a network. docs/checkpoint.md lists its keys.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn

from flower_classifier.base.messages import InputError
from flower_classifier.config.allowed import MOST_SCORED, StrangerMeasure, check_calibration
from flower_classifier.networks import safe_files
from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.classifier import FORMAT_OF_LAST_LAYERS, Classifier, ModelConfig
from flower_classifier.networks.feature_bank import FeatureBank
from flower_classifier.networks.safe_files import Plain
from flower_classifier.networks.source import black_picture
from flower_classifier.photos.copies import DIGEST_LETTERS
from flower_classifier.photos.views import Preprocessing

FORMAT_VERSION = 8
VALIDATION_PHOTOS = "validation_photos"  # the key, in `training`, of the content_digests of these, one after the other
# 6 and 7 tell strangers in other ways, in which their checkpoints go on
READ_VERSIONS = (FORMAT_OF_LAST_LAYERS, 6, 7, FORMAT_VERSION)


class PlainRow(TypedDict):
    """The numbers that every epoch has."""

    epoch: int
    train_loss: float  # of the parameters as they were
    valid_loss: float  # of their average, as is the accuracy
    valid_accuracy: float


class Row(PlainRow, total=False):
    """One epoch's numbers."""

    valid_balanced_accuracy: float  # the mean over classes; of runs that are judged by class


@dataclass(frozen=True)
class Trust:
    """How far the answers can be trusted, as the validation photos show, and what the training photos look like."""

    temperature: float = 1.0  # by which logits are divided before they become probabilities
    # Probabilities of the validation photos' true classes, lowest first: sets of classes are made from them
    set_scores: list[float] = field(default_factory=list)
    feature_bank: FeatureBank | None = None  # what is remembered of the training photos
    # Validation scores by which strangers are told, float64 (N, 2). Only beside a feature bank
    stranger_scores: torch.Tensor | None = None
    stranger_measure: StrangerMeasure = field(default_factory=StrangerMeasure)  # by which they were found

    def to_plain(self) -> Plain:
        """Return what a file holds of it."""
        return {
            "temperature": self.temperature,
            "set_scores": self.set_scores,
            "memory": self.feature_bank.to_plain() if self.feature_bank else None,
            "stranger_scores": self.stranger_scores,
            "stranger_measure": asdict(self.stranger_measure),
        }

    @classmethod
    def from_plain(cls, contents: Plain) -> Trust:
        """Make one of what a file holds. Raises ValueError, KeyError or TypeError for what makes no sense.

        Whether the feature bank fits the classifier is not checked.
        """
        temperature, set_scores, strangers = (contents[key] for key in ("temperature", "set_scores", "stranger_scores"))
        check_calibration(temperature, set_scores)
        feature_bank = None if contents["memory"] is None else FeatureBank(**contents["memory"])
        if strangers is not None:
            if feature_bank is None or not isinstance(strangers, torch.Tensor) or strangers.dtype != torch.float64:
                raise ValueError("scores for strangers of another type, or without a memory")
            if strangers.layout != torch.strided or strangers.dim() != 2 or strangers.shape[1] != 2:
                raise ValueError("scores for strangers of another shape")
            if not 0 < len(strangers) <= MOST_SCORED or not strangers.isfinite().all():
                raise ValueError("scores for strangers of impossible photos, or of too many")
        measure = StrangerMeasure.from_plain(contents.get("stranger_measure", {}))
        return cls(temperature, set_scores, feature_bank, strangers, measure)


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
    trust: Trust = field(default_factory=Trust)

    @property
    def names(self) -> list[str]:
        """What people call the classes, in the order of the logits."""
        return [self.category_names.get(name, name) for name in self.classes]

    def chose_epoch(self, digests: Sequence[str]) -> int | None:
        """Say how many of some photos, by their content_digests, are among those that its epoch was chosen on.

        None: it is an earlier version's, which did not write them down.
        """
        if self.validation_digests is None:
            return None
        chosen_on = set(self.validation_digests)
        return sum(digest in chosen_on for digest in digests)

    @property
    def validation_digests(self) -> list[str] | None:
        """The content_digests of the photos that its epoch was chosen on; None: it is an earlier version's."""
        stored = self.training.get(VALIDATION_PHOTOS)
        if not isinstance(stored, str):
            return None
        return [stored[start : start + DIGEST_LETTERS] for start in range(0, len(stored), DIGEST_LETTERS)]

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The classifier, with these very tensors in it, on the CPU and in eval mode.

        It is built without memory for tensors of its own. Raises ValueError or RuntimeError where they do not fit it.
        """
        arch, is_flat = self.model.arch, self.model.layers == "flat"
        backbone = source_of(arch).build_empty(arch, self.preprocessing, is_flat).with_layers(self.model.means)
        with torch.device("meta"):
            classifier = Classifier(self.model, backbone, nn.Identity())
            classifier.head = self.model.build_head(classifier.feature_width)
        classifier.eval()
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
            "preprocessing": self.preprocessing.to_plain(),
            "training": self.training,
            "history": self.history,
            "mirror": self.model.mirror,
            "layers": self.model.layers,
            "means": [layer.to_plain() for layer in self.model.means],
            "is_nonnegative": self.model.is_nonnegative,
            "square_roots": self.model.square_roots,
            **self.trust.to_plain(),
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
        if not isinstance(contents["training"], dict) or not all(isinstance(row, dict) for row in contents["history"]):
            raise ValueError("training or history is of another kind")
        model, preprocessing = ModelConfig.from_plain(contents), Preprocessing.from_plain(contents["preprocessing"])
        if not source_of(model.arch).takes(model.arch, preprocessing):  # the first photo would show it too late
            sizes = f"{preprocessing.crop_size} pixels out of {preprocessing.resize_size}"
            raise ValueError(f"{model.arch} takes no pictures of {sizes}")
        return cls(
            model=model,
            preprocessing=preprocessing,
            classes=tuple(classes),
            tensors=contents["state_dict"],
            category_names=names,
            training=contents["training"],
            history=contents["history"],
            trust=Trust.from_plain(contents),
        )

    def save(self, path: Path) -> None:
        """Write it into a file, whole or not at all.

        Raises RunError where the disk refuses; the file that was there before is then untouched.
        """
        safe_files.write_atomically(path, self.to_plain())

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint, build its classifier, and try that where its pictures have a size not its own.

        Raises InputError for a file that is not as train.py wrote it.
        """
        contents = safe_files.read_tensors(path)
        version = contents.get("format_version")
        if not isinstance(version, int) or "state_dict" not in contents:
            kind = safe_files.kind_of_contents(path, contents) or "it holds something else"
            raise InputError(f"{path} is no checkpoint that train.py wrote: {kind}")
        if version not in READ_VERSIONS:
            raise InputError(f"{path} has format {version}, this program reads {FORMAT_VERSION}: {what_to_do(version)}")
        safe_files.check_digest(path, contents)
        with safe_files.errors_as_input_error(path):
            checkpoint = cls.from_plain(contents)
            classifier, arch, side = checkpoint.classifier, checkpoint.model.arch, checkpoint.preprocessing.crop_size
            if checkpoint.trust.feature_bank:
                checkpoint.trust.feature_bank.check(classifier.feature_width, len(checkpoint.classes))
            if side != source_of(arch).weights(arch, "none", None).preprocessing.crop_size:
                with torch.inference_mode():
                    classifier(black_picture(classifier, side, torch.uint8))
        return checkpoint


def what_to_do(version: int, current: int = FORMAT_VERSION) -> str:
    """Say what helps against a file of another format."""
    return "update the program" if version > current else "an earlier version wrote it; train again"
