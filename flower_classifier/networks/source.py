"""What a backbone is, and what a source of backbones can be asked.

A source is a family of architectures: our own cnn, torchvision's, timm's. backbones.py chooses among them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
from torch import nn

from flower_classifier.networks.unfilled import Unfilled
from flower_classifier.photos.views import Preprocessing


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier. `module` takes normalised images (B, 3, S, S) to features (B, width)."""

    module: nn.Module
    width: int
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Weights:
    """What a backbone's parameters start from, and what goes with them."""

    name: str  # its library's name of them, a file's name, or "none" for random ones
    preprocessing: Preprocessing  # what they were trained on
    licence: str = ""  # where one is stated
    # Fetches the tensors, by the names that they have in the module that `build` makes; None: random ones
    read: Callable[[], Mapping[str, torch.Tensor]] | None = None


class Source(Protocol):
    """A family of architectures. What has a body here suits networks that are made of torch's own layers."""

    prefix: str  # with which the names of its architectures begin; "" for those without any
    pretrained: bool  # whether they come with weights: then they are frozen at first, and the head alone learns
    hidden_units: tuple[int, ...]  # widths of the head's hidden layers, where none are asked for

    @property
    def libraries(self) -> tuple[ModuleType, ...]:
        """Beside torch: their versions are part of the cache's key."""

    def names(self) -> list[str]:
        """Return the names of its architectures, in lower case."""

    def knows(self, arch: str) -> bool:
        """Say whether it has an architecture, without making a list of all."""

    def weights(self, arch: str, name: str | None, image_size: int | None) -> Weights:
        """Return the weights of this name, or the best ones. Raises InputError for a name or a size they do not fit."""

    def takes(self, arch: str, preprocessing: Preprocessing) -> bool:
        """Say whether an architecture takes pictures of these sizes."""

    def build(self, arch: str, preprocessing: Preprocessing) -> Backbone:
        """Build an architecture with random weights drawn from torch's generator, its own classifier left out."""

    def build_empty(self, arch: str, preprocessing: Preprocessing) -> Backbone:
        """Build it without memory for its tensors, to be assigned from a file: initialising vgg16 takes seconds.

        Buffers that no file holds must be there at the latest when `load_state_dict` returns.
        """
        with Unfilled():
            return self.build(arch, preprocessing)

    def in_plain_layers(self, module: nn.Module, side: int) -> nn.Module:
        """Return a backbone with the same output for pictures of `side` pixels in torch's own layers; or itself."""
        return module

    def has_feature_map(self, module: nn.Module, side: int) -> bool:
        """Say whether a backbone's last layers still have places, (B, C, h, w), on which a heat map can be drawn."""
