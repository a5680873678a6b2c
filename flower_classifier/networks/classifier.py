"""The model: a backbone and a head. Pixels of photos in, one logit per class out."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.source import Backbone

LEARNS = ("head", "last", "all")  # what of a classifier has learned: the head, the last layers too, everything


@dataclass(frozen=True)
class ModelConfig:
    """What, beside the preprocessing and the tensors, a model is made of."""

    arch: str
    hidden_units: tuple[int, ...]  # widths of the head's hidden layers; none: a linear head
    dropout: float
    num_classes: int
    learns: str  # one of LEARNS
    mirror: bool = False  # whether an answer is the mean of those to a photo and to its mirror image

    @property
    def answer_views(self) -> tuple[int, ...]:
        """The views of a photo of whose logits an answer is the mean."""
        return (0, 1) if self.mirror else (0,)


class Classifier(nn.Module):
    """A backbone and a head; normalisation is part of the forward, so that no caller can forget it."""

    mean: torch.Tensor  # both in_levels
    std: torch.Tensor

    def __init__(self, config: ModelConfig, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.preprocessing = backbone.preprocessing
        self.feature_width = backbone.width
        self.backbone = backbone.module
        self.head = head
        for name, numbers in (("mean", self.preprocessing.mean), ("std", self.preprocessing.std)):
            self.register_buffer(name, in_levels(numbers), persistent=False)  # the preprocessing is what is saved
        if self.starts_frozen:
            self.backbone.requires_grad_(False)
        self.eval()

    @property
    def starts_frozen(self) -> bool:
        """Whether the head learns alone at first: there are pretrained weights for such a backbone."""
        return source_of(self.config.arch).pretrained

    @property
    def learner(self) -> nn.Module:
        """The part that the optimizer steps: the head on a frozen backbone, else the whole."""
        return self if any(parameter.requires_grad for parameter in self.backbone.parameters()) else self.head

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training; a pretrained backbone stays in eval mode: the statistics of its norms do not move.

        Those of a few photos at a time would be worse than the ones that come with the weights.
        """
        super().train(mode)
        if self.starts_frozen:
            self.backbone.eval()
        return self

    def unfreeze(self, parameters: Collection[str], learns: str) -> None:
        """Let some of the backbone's parameters (by their names in it) learn with the head, and record what does."""
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in parameters)
        self.config = replace(self.config, learns=learns)

    def state_with(self, learned: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the whole state dict with another state of the learner in it."""
        prefix = "" if self.learner is self else "head."
        return {**self.state_dict(), **{prefix + name: tensor for name, tensor in learned.items()}}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take uint8 pixels (B, 3, S, S) to logits (B, classes)."""
        return self.head(self.features(pixels))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take uint8 pixels (B, 3, S, S) to features (B, D)."""
        return self.backbone(normalise(pixels, self.mean, self.std))


def in_levels(numbers: tuple[float, float, float]) -> torch.Tensor:
    """Return a mean or a standard deviation in pixel values from 0 to 255, (3, 1, 1), on the CPU."""
    return 255 * torch.tensor(numbers, device="cpu").view(3, 1, 1)


def normalise(
    pixels: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Take uint8 pixels (B, 3, S, S) to what the backbone was trained on, (pixels - mean) / std, both `in_levels`."""
    values = pixels.to(torch.float32, memory_format=memory_format, copy=True)
    return values.sub_(mean).div_(std)  # in place: a pass over the values costs what a layer costs


def build_classifier(config: ModelConfig, backbone: Backbone) -> Classifier:
    """Put a new head, drawn from torch's generator, on a backbone."""
    return Classifier(config, backbone, build_head(config, backbone.width))


def build_head(config: ModelConfig, width: int) -> nn.Sequential:
    """Build Linear, ReLU and dropout for every hidden layer, and a Linear to one logit per class.

    (B, width) -> (B, classes). Dropout stands behind hidden layers alone: a linear head has none.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([width, *config.hidden_units]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(([width, *config.hidden_units])[-1], config.num_classes))
