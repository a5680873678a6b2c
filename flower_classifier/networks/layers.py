"""Features of a backbone's earlier layers: means over all positions, beside what the backbone gives itself.

    layers, _ = last_layers(module, side=224, width=512)    which layers, found by running the network once
    add_means(module, layers)                               from now on module(images) gives (B, own width + theirs)

Earlier layers know what the last one has forgotten: it was trained for other classes (Head2Toe: Evci et al. 2022). A
layer is what enters a block, the unit that a network repeats. docs/features.md says how well that does.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from flower_classifier.base.messages import InputError

MOST_MEANS = 3  # layers beside a backbone's own output: of 1 to 12, 2 to 5 do equally well (docs/features.md)
MOST_NUMBERS = 4_096  # features in all, while at least one layer is there: a covariance of more takes long
MOST_FEATURES = 8_192  # that are whitened: the covariance of more would take gigabytes and minutes
MAP, MAP_LAST, TOKENS = "map", "map, channels last", "tokens"  # (B, C, h, w), (B, h, w, C), (B, N, C)


@dataclass(frozen=True)
class Layer:
    """What enters a module of a backbone, as a feature: its mean over all positions."""

    module: str  # its name in the backbone
    form: str  # MAP, MAP_LAST or TOKENS
    channels: int
    prefix: int = 0  # tokens before those of the patches, of which the first is the class token
    is_nonnegative: bool = False  # whether it is never below zero, as behind a ReLU

    @property
    def width(self) -> int:
        """How many numbers it gives: the class token counts beside the mean of the patches."""
        return self.channels * (2 if self.prefix else 1)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over positions, (B, width)."""
        if self.form == MAP:
            return values.mean(dim=(2, 3))
        if self.form == MAP_LAST:
            return values.mean(dim=(1, 2))
        patches = values[:, self.prefix :].mean(dim=1)
        return torch.cat([values[:, 0], patches], dim=1) if self.prefix else patches

    def weighted(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return what each position adds to the weighted sum of the means, (B, h, w). `weights`: (width,)."""
        channels = values if self.form == MAP else values.permute(0, 3, 1, 2)  # (B, C, h, w)
        return torch.einsum("bchw,c->bhw", channels, weights) / math.prod(channels.shape[2:])

    def to_plain(self) -> list[object]:
        """Return what a checkpoint holds of it."""
        return [self.module, self.form, self.channels, self.prefix, self.is_nonnegative]

    @classmethod
    def from_plain(cls, contents: Sequence[Any]) -> Layer:
        """Make one of what a file holds. Raises ValueError or TypeError for what is no layer."""
        module, form, channels, prefix, is_nonnegative = contents
        if type(module) is not str or form not in (MAP, MAP_LAST, TOKENS) or type(is_nonnegative) is not bool:
            raise ValueError("a layer without a name or a form")
        if type(channels) is not int or type(prefix) is not int or not 0 < channels < 10**6 or not 0 <= prefix < 100:
            raise ValueError("a layer of an impossible width")
        if prefix and form != TOKENS:
            raise ValueError("tokens before a map")
        return cls(module, form, channels, prefix, is_nonnegative)


@dataclass
class LayerMeans:
    """The hooks of a backbone that gives the means of some layers too. Several threads may run it at once."""

    layers: tuple[Layer, ...]
    # Of the forwards that run now, by thread: each layer's mean. A copy of the backbone gets a copy of this
    running: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)

    def begin(self, *_: object) -> None:
        """Begin a forward in this thread."""
        self.running[threading.get_ident()] = {}

    def end(self, _: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        """Return the backbone's output (B, D) with the means behind it, (B, D + theirs), and forget them."""
        means = self.running.pop(threading.get_ident())
        try:
            return torch.cat([output, *(means[layer.module] for layer in self.layers)], dim=1)
        except KeyError as error:
            raise InputError(f"the network does not run its layer {error}: the checkpoint is damaged") from None

    def __deepcopy__(self, memo: dict[int, object]) -> LayerMeans:
        return memo.setdefault(id(self), LayerMeans(self.layers))  # type: ignore[return-value]


@dataclass
class Keep:
    """The hook of one layer: keep its mean for the end of the forward."""

    means: LayerMeans
    layer: Layer

    def __call__(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Keep the mean of what enters the layer's module."""
        values = inputs[0]
        fits = not isinstance(values, torch.Tensor) or values.dim() == (3 if self.layer.form == TOKENS else 4)
        mean = self.layer.mean(values) if fits else None
        if mean is None or (isinstance(mean, torch.Tensor) and mean.shape[1] != self.layer.width):
            raise InputError(f"what enters {self.layer.module} is not as the checkpoint says: it is damaged")
        if (running := self.means.running.get(threading.get_ident())) is not None:  # else only an inner module runs
            running[self.layer.module] = mean


def add_means(module: nn.Module, layers: Sequence[Layer]) -> None:
    """Let a backbone give the means of some layers behind its own output. Raises ValueError for layers it lacks.

    They are hooks, so that its tensors keep their names.
    """
    if not layers:
        return
    means = LayerMeans(tuple(layers))
    module.register_forward_pre_hook(means.begin)
    module.register_forward_hook(means.end)
    for layer in layers:
        try:
            module.get_submodule(layer.module).register_forward_pre_hook(Keep(means, layer))
        except AttributeError as error:
            raise ValueError(f"a layer that the network lacks: {error}") from None


# ---------------------------------------------------------------------------------------------------- which layers


@torch.no_grad()
def last_layers(module: nn.Module, side: int, width: int) -> tuple[tuple[Layer, ...], bool]:
    """Return the layers that enter the last blocks of a backbone, from the last on, found with one picture of noise.

    Also return whether the backbone's output is never below zero. `side`: of the pictures, in pixels. `width`: of that
    output. Too wide layers, in all, are left out.
    """
    called: dict[str, torch.Tensor] = {}  # what enters each block, in the order of calls

    def record(name: str, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor):
            called.setdefault(name, inputs[0])

    with contextlib.ExitStack() as hooks:
        for name, block in blocks(module):
            hooks.enter_context(block.register_forward_pre_hook(lambda _, inputs, name=name: record(name, inputs)))
        output = module(noise_picture(side).to(next(module.parameters()).device))
    layers: list[Layer] = []
    seen: list[torch.Tensor] = []
    for name, values in reversed(called.items()):
        if len(layers) == MOST_MEANS or any(values is other for other in seen):
            continue
        seen.append(values)
        if (layer := layer_of(module, name, values)) is None:
            continue
        if width + layer.width + sum(other.width for other in layers) > (MOST_NUMBERS if layers else MOST_FEATURES):
            break
        layers.append(layer)
    return tuple(layers), bool((output >= 0).all())


def noise_picture(side: int) -> torch.Tensor:
    """Return a picture of noise, (1, 3, side, side), normalised: it makes every layer give numbers of both signs."""
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def layer_of(module: nn.Module, name: str, values: torch.Tensor) -> Layer | None:
    """Return the layer whose values (1, ...) enter a block; None where they have no positions, or are pixels."""
    if values.shape[0] != 1:  # windows of the picture
        return None
    shape, is_nonnegative = values.shape[1:], bool((values >= 0).all())
    if len(shape) == 3 and shape[0] > 3 and shape[1] == shape[2] > 1:
        return Layer(name, MAP, shape[0], is_nonnegative=is_nonnegative)
    if len(shape) == 3 and shape[0] == shape[1] > 1:
        return Layer(name, MAP_LAST, shape[2], is_nonnegative=is_nonnegative)
    if len(shape) == 2 and shape[0] > 1:
        inner = getattr(module, "model", module)  # timm's
        has_token = any(getattr(inner, token, None) is not None for token in ("cls_token", "class_token"))
        prefix = getattr(inner, "num_prefix_tokens", 1) if has_token else 0
        if math.isqrt(shape[0] - prefix) ** 2 != shape[0] - prefix:  # the class token joins the patches later
            prefix = 0
        return Layer(name, TOKENS, shape[1], prefix, is_nonnegative)
    return None


def blocks(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks of a backbone, by name: what a network repeats, and single layers with kernels between them.

    A Sequential of several layers with kernels, and a module of a kind that is there once, are frames of blocks.
    """
    kinds = [type(inner) for inner in module.modules()]

    def is_frame(inner: nn.Module) -> bool:
        if sum(is_kernel(parameter) for parameter in inner.parameters()) < 2:
            return False
        return isinstance(inner, nn.Sequential | nn.ModuleList) or kinds.count(type(inner)) == 1

    def below(name: str, inner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for child_name, child in inner.named_children():
            full = f"{name}.{child_name}" if name else child_name
            if is_frame(child):
                yield from below(full, child)
            elif any(is_kernel(parameter) for parameter in child.parameters()):
                yield full, child

    yield from below("", module)


def is_kernel(parameter: nn.Parameter) -> bool:
    """Say whether a parameter is a kernel or a matrix, not a bias or a norm's."""
    return sum(side > 1 for side in parameter.shape) > 1


# -------------------------------------------------------------------------------------------------------- in a graph


class HookTracer(fx.Tracer):
    """Traces a network with its hooks, of which torch's own tracer forgets those of single layers."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 -- torch's own types
        """Call a module in the graph, after its hooks."""
        if self.is_leaf_module(m, self.path_of_module(m)):
            for hook in m._forward_pre_hooks.values():
                hook(m, args)
        return super().call_module(m, forward, args, kwargs)


def traced(module: nn.Module) -> fx.GraphModule:
    """Return a copy of a backbone as a graph without hooks that computes the same, means of layers included."""
    root = nn.Sequential(module)  # since a tracer leaves out the hooks of its root
    graph_module = copy.deepcopy(fx.GraphModule(root, HookTracer().trace(root)))
    for inner in graph_module.modules():
        inner._forward_pre_hooks.clear()
    return graph_module
