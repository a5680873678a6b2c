"""What a backbone is, what a source of backbones can be asked, and weights from files of other programs.

A source is a family of architectures: our own cnn, torchvision's, timm's. backbones.py chooses among them by name.
Networks are built without memory for their tensors, which a file brings: it is read safely, and its tensors are renamed
and assigned.
"""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from flower_classifier.base.messages import InputError, RunError, first_few, is_out_of_memory, reason_of
from flower_classifier.networks.layers import Layer, add_means, traced
from flower_classifier.photos.views import Preprocessing


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier. `module` takes normalised images (B, 3, S, S) to features (B, width).

    With the means of `layers` (layers.py) they are so many more.
    """

    module: nn.Module
    width: int
    preprocessing: Preprocessing
    layers: tuple[Layer, ...] = ()
    is_nonnegative: bool = False  # whether its own output is never below zero

    def with_layers(self, layers: Sequence[Layer]) -> Backbone:
        """Let the module give the means of these layers too. Raises ValueError for layers that it lacks."""
        add_means(self.module, layers)
        return replace(self, layers=tuple(layers))


class NoWeightsError(RunError):
    """Pretrained weights that cannot be fetched, or are damaged where they are kept."""


@dataclass(frozen=True)
class Weights:
    """What a backbone's parameters start from, and what goes with them."""

    name: str  # its library's name of them, a file's name, or "none" for random ones
    preprocessing: Preprocessing  # what they were trained on
    licence: str = ""  # where one is stated
    # Fetches the tensors, by the names that they have in the module that `build` makes; None: random ones. Raises
    # NoWeightsError where it cannot
    read: Callable[[], Mapping[str, torch.Tensor]] | None = None


class Source(Protocol):
    """A family of architectures. The default methods fit networks built from plain torch layers."""

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

    def has_flat(self, arch: str) -> bool:
        """Say whether an architecture by itself hands its last layer on position by position, not as a mean."""
        return False

    def takes(self, arch: str, preprocessing: Preprocessing) -> bool:
        """Say whether an architecture takes pictures of these sizes."""

    def build(self, arch: str, preprocessing: Preprocessing, flat: bool = False) -> Backbone:
        """Build an architecture with random weights drawn from torch's generator, its own classifier left out.

        `flat`: its last layer comes position by position, where it has that; else as a mean over positions.
        """

    def build_empty(self, arch: str, preprocessing: Preprocessing, flat: bool = False) -> Backbone:
        """Build it without memory for its tensors, to be assigned from a file: initialising vgg16 takes seconds.

        Buffers that no file holds must be there at the latest when `load_state_dict` returns.
        """
        with Unfilled():
            return self.build(arch, preprocessing, flat)

    def folded(self, module: nn.Module, side: int) -> nn.Module:
        """Return a backbone with the same output for pictures of `side` pixels, batch norms folded; or itself."""
        return fold_batch_norms(module)

    def has_feature_map(self, module: nn.Module, side: int) -> bool:
        """Say whether a backbone's last layers still have positions, (B, C, h, w), for a heat map."""


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Return a copy with each batch norm folded into the convolution before it; the module itself if it has none.

    The copy's graph gives the means of layers, without hooks. In eval mode a batch norm is a scaling and a shift (Jacob
    et al. 2018, section 3.2). Networks of many small layers gain most: mobilenet_v3_large's forward takes three
    quarters of the time, resnet50's 95 %.
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
        return module
    try:
        from torch.fx.experimental.optimization import fuse  # here, since what is experimental may move

        return fuse(traced(module.eval()), inplace=True, no_trace=True)
    except Exception as error:  # of any kind: this network's forward cannot be traced, so it runs as it is
        if is_out_of_memory(error):
            raise
        return module


# ---------------------------------------------------------------------------------- networks without memory for tensors


class Unfilled(TorchFunctionMode):
    """Makes `torch.empty`, which makes the layers' parameters, give no memory.

    `torch.device("meta")` gives none to any tensor; but regnet, for one, computes its widths with tensors.
    """

    def __torch_function__(
        self,
        function: Callable[..., object],
        _: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Call a function of torch's."""
        return function(*args, **{**(kwargs or {}), **({"device": "meta"} if function is torch.empty else {})})


# -------------------------------------------------------------------------------------- a picture to try a network with


def black_picture(module: nn.Module, side: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return a picture of zeros, (1, 3, side, side), on a network's device.

    A backbone takes float32, a Classifier uint8.
    """
    return torch.zeros(1, 3, side, side, dtype=dtype, device=next(module.parameters()).device)


# ----------------------------------------------------------------------------------------------------- files of weights


# Under which other programs save a network's state dict; a training's average (EMA) comes first, where it is there too
STATE_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")


def read_weights_file(path: Path) -> Mapping[str, torch.Tensor]:
    """Read a state dict from a file in the format safetensors or of torch.save's, of which no code is run."""
    is_safetensors = path.suffix.lower() == ".safetensors"
    if is_safetensors and importlib.util.find_spec("safetensors") is None:  # it is optional
        raise InputError(f"{path}: needs safetensors, which is not installed: pip install safetensors")
    try:
        if is_safetensors:
            from safetensors.torch import load_file

            contents = load_file(path)
        else:  # the options of the training that made it may be there too, as timm's and others' programs keep them
            with torch.serialization.safe_globals([argparse.Namespace]):
                contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is no state dict makes the reader raise
        raise InputError(
            f"{path}: not a file of tensors that can be loaded safely ({why_unsafe(error)})", "weights"
        ) from None
    state = state_dict_in(contents)
    if state is None:
        raise InputError(f"{path}: no state dict (a mapping from names to tensors)", "weights")
    return state


def why_unsafe(error: Exception) -> str:
    """Say why a file's tensors were not read; torch's own words are advice to run what may be in the file."""
    if "Unsupported global" in str(error) or "Unsupported class" in str(error):
        return "it is a pickled model, or holds one; save torch.save(model.state_dict(), FILE)"
    return "it is damaged, or no such file" if isinstance(error, pickle.UnpicklingError) else reason_of(error)


def state_dict_in(contents: object) -> Mapping[str, torch.Tensor] | None:
    """Return the state dict that a file holds, bare or under one of the keys that other programs save it by.

    Where a training's average is there too (EMA), that is the one to use.
    """
    for key in STATE_KEYS:
        inner = contents.get(key) if isinstance(contents, dict) else None
        contents = inner if isinstance(inner, dict) else contents
    if isinstance(contents, dict) and all(isinstance(value, torch.Tensor) for value in contents.values()):
        return contents
    return None


def fill_backbone(module: nn.Module, state: Mapping[str, torch.Tensor], arch: str, weights: str) -> None:
    """Assign a state dict's tensors to a backbone, leaving the original classifier's behind.

    Raises InputError where tensors are missing or have other shapes.
    """
    # Without what others add to a name: DataParallel's prefix, and the dots of old densenet files
    old_densenet = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)")
    renamed = {old_densenet.sub(r"\1\2", name.removeprefix("module.")): tensor for name, tensor in state.items()}
    expected = module.state_dict()
    missing = [name for name in expected if name not in renamed and not name.endswith("num_batches_tracked")]
    misfits = [name for name in expected if name in renamed and renamed[name].shape != expected[name].shape]
    if missing or misfits:
        problem = f"lacks {first_few(missing)}" if missing else f"has other shapes for {first_few(misfits)}"
        raise InputError(f"{weights}: these are not {arch}'s, the file {problem}", "weights")
    batches_seen = torch.tensor(0)  # what files from before torch 0.4.1 lack, and eval mode never reads
    # In the module's own dict, which also says its version: mnasnet asks for it, and the shapes are this version's
    expected.update({name: renamed.get(name, batches_seen).to(expected[name].dtype) for name in expected})
    module.load_state_dict(expected, assign=True)
