"""Adapters for timm's networks: which features they give, and torch's layers in place of timm's own.

Nothing here loads timm.
"""

import contextlib
import copy
from collections.abc import Mapping
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from flower_classifier.networks.source import black_picture

Layer = TypeVar("Layer", bound=nn.Module)


class TimmModel(Protocol):
    """What is used of timm's models."""

    num_features: int
    num_prefix_tokens: int  # of a vision transformer

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Take normalised images (B, 3, S, S) to what is pooled of the features, where there is no classifier."""

    def forward_features(self, values: torch.Tensor) -> torch.Tensor:
        """Take normalised images to features before they are pooled."""


class Features(nn.Module):
    """A timm model that gives features, (B, 3, S, S) -> (B, width).

    Of a plain vision transformer: the class token beside the mean of the patch tokens, both behind the final norm where
    there is one, as in DINOv2's own linear evaluation (Oquab et al. 2023, section 7.1 and its code). Of all others:
    what they pool.
    """

    def __init__(self, model: TimmModel) -> None:
        super().__init__()
        self.model = model
        is_plain = all(hasattr(model, name) for name in ("patch_embed", "blocks", "num_prefix_tokens"))
        has_token = getattr(model, "cls_token", None) is not None and getattr(model, "global_pool", "") == "token"
        self.by_token = is_plain and has_token  # a plain vision transformer that classifies by its class token
        width = getattr(model, "head_hidden_size", None) or model.num_features
        self.feature_width: int = 2 * model.num_features if self.by_token else width

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take normalised images (B, 3, S, S) to features (B, width)."""
        if not self.by_token:
            return self.model(values)
        tokens = self.model.forward_features(values)  # (B, N, D)
        patches = tokens[:, self.model.num_prefix_tokens :]
        return torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1)  # (B, 2 D)


@torch.no_grad()
def in_plain_layers(module: nn.Module, side: int) -> nn.Module:
    """Return a copy whose batch norms and padded convolutions are torch's own, which can be folded.

    A module that has no other ones is returned itself.

    timm's batch norm includes the activation behind it. Its convolution with TensorFlow's padding pads each picture as
    the picture's size asks for; the size is always `side` here, so the padding can be part of the weights.
    """
    norms = layers_called(module, "BatchNormAct2d", nn.BatchNorm2d)
    padded = layers_called(module, "Conv2dSame", nn.Conv2d)
    if not norms and not padded:
        return module
    sizes = input_sizes(module, padded, side)
    plain = copy.deepcopy(module).eval()
    for name, layer in norms.items():
        norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        norm.load_state_dict(layer.state_dict())
        norm.to(next(layer.buffers()).device).eval()
        plain.set_submodule(name, nn.Sequential(norm, *map(layer.get_submodule, ("drop", "act"))))
    for name, size in sizes.items():
        convolution = plain.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)  # as in `padded`
        replacement = with_fixed_padding(convolution, size)
        replacement._forward_pre_hooks = convolution._forward_pre_hooks  # which take a layer's mean
        plain.set_submodule(name, replacement)
    return plain


def layers_called(module: nn.Module, kind: str, base: type[Layer]) -> dict[str, Layer]:
    """Return the layers of a class, by their names; the class is given by its name, since timm may not be there.

    `base`: torch's class that it is derived from.
    """
    layers = module.named_modules()
    return {name: layer for name, layer in layers if isinstance(layer, base) and type(layer).__name__ == kind}


def input_sizes(module: nn.Module, layers: Mapping[str, nn.Module], side: int) -> dict[str, torch.Size]:
    """Return the height and width that reach each of some layers, found out with one black picture.

    A layer that pictures of several sizes reach is left out.
    """
    sizes: dict[str, set[torch.Size]] = {}
    if not layers:
        return {}

    def record(name: str, values: torch.Tensor) -> None:
        sizes.setdefault(name, set()).add(values.shape[-2:])

    with contextlib.ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(lambda _, inputs, name=name: record(name, inputs[0]))
            hooks.enter_context(hook)
        module(black_picture(module, side))
    return {name: distinct.pop() for name, distinct in sizes.items() if len(distinct) == 1}


def with_fixed_padding(layer: nn.Conv2d, size: torch.Size) -> nn.Conv2d:
    """Replace TensorFlow-style "same" padding by fixed padding for this input size.

    That padding is symmetrical, or one pixel more at the right and at the bottom. Then a row of zeros before the
    kernel's first, with the larger padding at both sides, gives the same sums: it starts one pixel further out.
    """
    sides = list(zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True))
    padding = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sides]  # in all, per dimension
    extra = [p % 2 for p in padding]
    if any(more and d > 1 for more, d in zip(extra, layer.dilation, strict=True)):
        return layer
    kernels = [k + more for k, more in zip(layer.kernel_size, extra, strict=True)]
    halves = [-(-p // 2) for p in padding]
    kernel, stride, fixed, dilation = (
        (height, width) for height, width in (kernels, layer.stride, halves, layer.dilation)
    )
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        kernel,
        stride,
        fixed,
        dilation,
        layer.groups,
        layer.bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    plain.weight.copy_(F.pad(layer.weight, (extra[1], 0, extra[0], 0)))
    if plain.bias is not None and layer.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain
