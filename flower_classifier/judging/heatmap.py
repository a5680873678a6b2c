"""Where in a photo the network found what speaks for a class.

HiResCAM (Draelos & Carin 2020): the last feature map times the gradient of the class's logit with respect to it, summed
over the channels. Grad-CAM (Selvaraju et al. 2017) averages the gradient over positions first; the two are the same
where the network averages over positions itself, and where it does not (vgg16's flat features) this one stays true to
it. The means of earlier layers speak for a class too: each position by its channels, times what the logit rises with
their means.
"""

import contextlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.classifier import Classifier, normalise


@dataclass(frozen=True)
class Heatmap:
    """How much each position speaks for a class, and which box of the photo the positions divide."""

    values: np.ndarray  # float32 (h, w), 0 to 1
    box: tuple[float, float, float, float]  # left, top, right, bottom, as shares of the photo's width and height

    @property
    def shows_all(self) -> bool:
        """Whether the network sees all of the photo, or all that anybody could make out."""
        left, top, right, bottom = self.box
        return max(left, top) < 0.005 and min(right, bottom) > 0.995


def find_heatmap(classifier: Classifier, pixels: torch.Tensor, label: int, size: tuple[int, int]) -> Heatmap | None:
    """Return how much each position in a photo of `size` (width, height) raises the logit of a class.

    `pixels`: its plain view, uint8 (3, S, S). None for an architecture without a last feature map, such as a vision
    transformer.
    """
    batch = pixels[None]  # (1, 3, S, S)
    source = source_of(classifier.config.arch)
    has_map = source.has_feature_map(classifier.backbone, classifier.preprocessing.crop_size)
    last = last_feature_map(classifier, batch) if has_map else None
    if last is None:
        return None
    maps: list[torch.Tensor] = []
    entering: dict[str, torch.Tensor] = {}  # what enters the layers whose means are features
    here = threading.get_ident()  # other threads may run the same network for the next photos

    def start_here(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        if threading.get_ident() != here:
            return output
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()  # the layers behind may change it in place

    def keep(name: str, values: torch.Tensor) -> None:
        if threading.get_ident() == here:
            entering[name] = values.detach().clone()  # a block may change it in place

    layers = classifier.config.seen_means
    with contextlib.ExitStack() as hooks, torch.enable_grad():
        for layer in layers:
            module = classifier.backbone.get_submodule(layer.module)
            hook = module.register_forward_pre_hook(lambda _, inputs, name=layer.module: keep(name, inputs[0]))
            hooks.enter_context(hook)
        hooks.enter_context(last.register_forward_hook(start_here))
        row = classifier.backbone(normalise(batch, classifier.mean, classifier.std))  # (1, D)
        logit = classifier.head(classifier.features_of(row))[0, label]
        gradient, slopes = torch.autograd.grad(logit, (maps[-1], row))  # (1, C, h, w), (1, D)
    spoken_for = [(maps[-1] * gradient).sum(dim=1)]  # (1, h, w) each
    begin = classifier.output_width
    for layer in layers:
        spoken_for.append(layer.weighted(entering[layer.module], slopes[0, begin : begin + layer.width]))
        begin += layer.width
    values = summed(spoken_for).clamp(min=0).detach().float().cpu()  # (h, w)
    values = values / values.max().clamp(min=torch.finfo(values.dtype).tiny)
    left, top, right, bottom = classifier.preprocessing.shown(*size)
    width, height = size
    return Heatmap(values.numpy(), (left / width, top / height, right / width, bottom / height))


def summed(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of maps (1, h, w) of several sizes, in the finest of these; each keeps its own sum."""
    finest = max((values.shape[1:] for values in maps), key=math.prod)
    resized = [
        F.interpolate(values[None], size=finest, mode="bilinear") * (math.prod(values.shape[1:]) / math.prod(finest))
        for values in maps
    ]
    return torch.stack(resized).sum(dim=0)[0, 0]


@torch.no_grad()
def last_feature_map(classifier: Classifier, batch: torch.Tensor) -> nn.Module | None:
    """Return the backbone's last module whose output has positions, (B, C, h, w)."""
    modules: list[nn.Module] = []
    here = threading.get_ident()

    def record(module: nn.Module, _: object, output: object) -> None:
        if (
            threading.get_ident() == here
            and isinstance(output, torch.Tensor)
            and output.dim() == 4
            and min(output.shape[2:]) > 1
        ):
            modules.append(module)

    with contextlib.ExitStack() as hooks:
        for module in classifier.backbone.modules():
            hooks.enter_context(module.register_forward_hook(record))
        classifier.features(batch)
    return modules[-1] if modules else None
