"""The model, and the checkpoint that alone rebuilds it.

A `Classifier` is a backbone and a head: photos' uint8 pixels in, one logit a class out. `save_checkpoint` and
`load_checkpoint` define the file: plain dicts, lists, strings, numbers and tensors, so that `torch.load` with
`weights_only=True` takes it, and takes it without torchvision's weights or a network.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from backbones import Backbone, empty_backbone, fold_batch_norms, known_archs
from devices import has_bfloat16
from errors import InputError, is_out_of_memory
from images import Preprocessing
from tensor_files import check_digest, read_tensors, write_atomically
from words import reason_of

MOST_LAYERS = 100  # of a head, hidden
FORMAT_VERSION = 2  # 1 had no temperature


# ------------------------------------------------------------------------------------------------------------- model


@dataclass(frozen=True)
class ModelConfig:
    """What, beside the preprocessing and the tensors, a model is made of."""

    arch: str
    hidden_units: tuple[int, ...]  # widths of the head's hidden layers; none: a linear head
    dropout: float
    num_classes: int

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is and the head alone learns; `cnn` is trained whole."""
        return self.arch != "cnn"


class Classifier(nn.Module):
    """A backbone and a head; normalisation is part of the forward, so that no caller can forget it."""

    def __init__(self, config: ModelConfig, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.preprocessing = backbone.preprocessing
        self.feature_width = backbone.width
        self.backbone = backbone.module
        self.head = head
        if config.frozen:
            self.backbone.requires_grad_(False)
        self.memory_format = torch.contiguous_format
        self.bfloat16 = False
        self.running = [self.backbone]  # the form in which it runs; in a list, lest it be taken for a part of its own
        self.eval()

    def place(self, device: torch.device) -> Classifier:
        """Move to a device, in the form, memory format and precision that suit a frozen backbone; return itself.

        On a CPU channels_last is several times faster, and CUDA prefers it; on MPS it has had wrong results.
        """
        if self.config.frozen and device.type != "mps":
            self.memory_format = torch.channels_last
        self.bfloat16 = self.config.frozen and has_bfloat16(device)
        self.to(device)
        self.backbone.to(memory_format=self.memory_format)
        if self.config.frozen:
            self.running = [fold_batch_norms(self.backbone).to(memory_format=self.memory_format)]
        return self

    @functools.cached_property
    def backbone_digest(self) -> str:
        """A digest of the frozen backbone's names and numbers, or "" where it is trained."""
        if not self.config.frozen:
            return ""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in self.backbone.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def trainee(self) -> nn.Module:
        """The part that learns: the head on a frozen backbone, else everything."""
        return self.head if self.config.frozen else self

    @property
    def trainee_input_shape(self) -> tuple[int, ...]:
        """Shape of what the trainee takes of one photo: its features, or its pixels where everything learns."""
        size = self.preprocessing.crop_size
        return (self.feature_width,) if self.config.frozen else (3, size, size)

    @property
    def trainee_input_dtype(self) -> torch.dtype:
        """Type of what the trainee takes."""
        return torch.float32 if self.config.frozen else torch.uint8

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training; a frozen backbone stays in eval mode, lest its batch-norm statistics drift."""
        super().train(mode)
        if self.config.frozen:
            self.backbone.eval()
        return self

    def state_with(self, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the whole state dict with another state of the trainee in it."""
        prefix = "head." if self.config.frozen else ""
        return {**self.state_dict(), **{prefix + name: tensor for name, tensor in trained.items()}}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take uint8 pixels (B, 3, S, S) to logits (B, classes)."""
        return self.head(self.features(pixels))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take uint8 pixels (B, 3, S, S) to float32 features (B, D)."""
        (backbone,) = self.running
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            return backbone(self.normalise(pixels)).float()

    def frozen_part(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take uint8 pixels (B, 3, S, S) as far as nothing learns: to features, or nowhere."""
        return self.features(pixels) if self.config.frozen else pixels

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take uint8 pixels (B, 3, S, S) to what the backbone was trained on: (pixels / 255 - mean) / std."""
        mean, std = (
            torch.tensor(numbers, device=pixels.device).view(3, 1, 1)
            for numbers in (self.preprocessing.mean, self.preprocessing.std)
        )
        values = pixels.to(torch.float32, memory_format=self.memory_format, copy=True)
        return values.sub_(255 * mean).div_(255 * std)  # in place: a pass over the values costs what a layer costs


def build_classifier(config: ModelConfig, backbone: Backbone) -> Classifier:
    """Put a new head, drawn from torch's generator, on a backbone."""
    return Classifier(config, backbone, build_head(config, backbone.width))


def build_head(config: ModelConfig, width: int) -> nn.Sequential:
    """Build Linear, ReLU and dropout for every hidden layer, and a Linear to one logit a class.

    (B, width) -> (B, classes). Dropout stands behind hidden layers alone: a linear head has none.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([width, *config.hidden_units]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(([width, *config.hidden_units])[-1], config.num_classes))


# -------------------------------------------------------------------------------------------------------- checkpoint


@dataclass
class Checkpoint:
    """What `checkpoint.pth` holds: a classifier, what its outputs are called, and how it came about.

    In the file the tensors are the best epoch's; while training, `classifier` is the one being trained.
    """

    classifier: Classifier
    classes: tuple[str, ...]  # class folders, in the order of the logits
    category_names: dict[str, str] = field(default_factory=dict)  # class folder -> what people call it
    training: dict[str, object] = field(default_factory=dict)  # epoch, epochs, learning_rate, …
    history: list[dict[str, float]] = field(default_factory=list)  # one row an epoch
    temperature: float = 1.0  # by which logits are divided before they become probabilities

    @property
    def names(self) -> list[str]:
        """What people call the classes, in the order of the logits."""
        return [self.category_names.get(name, name) for name in self.classes]


def save_checkpoint(path: Path, checkpoint: Checkpoint, trained: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a checkpoint, whole or not at all; `trained` stands in for the state of the classifier's trainee.

    Raises RunError where the disk refuses; the file that was there before is then untouched.
    """
    classifier = checkpoint.classifier
    config, preprocessing = classifier.config, classifier.preprocessing
    contents = {
        "format_version": FORMAT_VERSION,
        "arch": config.arch,
        "hidden_units": list(config.hidden_units),
        "dropout": config.dropout,
        "class_to_idx": {name: i for i, name in enumerate(checkpoint.classes)},
        "category_names": checkpoint.category_names,
        "preprocessing": plain(preprocessing),
        "training": checkpoint.training,
        "history": checkpoint.history,
        "temperature": checkpoint.temperature,
        "state_dict": classifier.state_with(trained or {}),
    }
    write_atomically(path, contents)


def plain(preprocessing: Preprocessing) -> dict[str, object]:
    """Return the preprocessing as a dict of numbers, strings and lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(preprocessing).items()}


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild the classifier from its file alone, on the CPU, in eval mode.

    Raises InputError for a file that cannot be read or that train.py did not write.
    """
    contents = read_tensors(path)
    version = contents.get("format_version")
    if not isinstance(version, int) or "state_dict" not in contents:
        raise InputError(f"{path} is a file of tensors, but no checkpoint that train.py wrote")
    if version > FORMAT_VERSION:
        raise InputError(f"{path} has format {version}, this program reads up to {FORMAT_VERSION}: update it")
    check_digest(path, contents)
    try:
        return Checkpoint(
            classifier=rebuild_classifier(contents),
            classes=tuple(contents["class_to_idx"]),
            category_names=contents["category_names"],
            training=contents["training"],
            history=contents["history"],
            temperature=temperature_of(contents),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        what = f"{type(error).__name__}: {reason_of(error)}"
        raise InputError(f"{path} is damaged or was changed by hand ({what})") from error


def temperature_of(contents: Mapping[str, object]) -> float:
    """Return the temperature; files of format 1 have none. Raises ValueError for one that makes no sense."""
    temperature = contents.get("temperature", 1.0)
    if not isinstance(temperature, float) or not 0 < temperature < math.inf:
        raise ValueError(f"a temperature of {temperature}")
    return temperature


def rebuild_classifier(contents: Mapping[str, object]) -> Classifier:
    """Build the classifier without memory for its tensors, and assign the file's to it."""
    if contents["arch"] not in known_archs():  # torchvision has others, which would be asked for and may download
        raise ValueError(f"there is no architecture {contents['arch']!r}")
    if len(contents["hidden_units"]) > MOST_LAYERS:
        raise ValueError(f"{len(contents['hidden_units'])} hidden layers")
    classes = contents["class_to_idx"]
    if len(classes) < 2 or list(classes.values()) != list(range(len(classes))):
        raise ValueError("class_to_idx does not count from 0")
    names = contents["category_names"]
    if not all(isinstance(name, str) for name in (*classes, *names, *names.values())):
        raise ValueError("names that are no text")
    config = ModelConfig(
        arch=contents["arch"],
        hidden_units=tuple(contents["hidden_units"]),
        dropout=contents["dropout"],
        num_classes=len(contents["class_to_idx"]),
    )
    numbers = contents["preprocessing"]
    preprocessing = Preprocessing(**{**numbers, "mean": tuple(numbers["mean"]), "std": tuple(numbers["std"])})
    backbone = empty_backbone(config.arch, preprocessing)
    with torch.device("meta"):
        classifier = build_classifier(config, backbone)
    state = OrderedDict(contents["state_dict"])
    for name, tensor in classifier.state_dict().items():
        if name in state and state[name].dtype != tensor.dtype:
            raise ValueError(f"{name} is {state[name].dtype}, not {tensor.dtype}")
    state._metadata = classifier.state_dict()._metadata  # module versions, which mnasnet asks for
    classifier.load_state_dict(state, assign=True)
    return classifier
