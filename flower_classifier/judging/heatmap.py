"""Where in a photo the network found what speaks for a class.

HiResCAM (Draelos & Carin 2020): the last feature map times the gradient of the class's logit with respect to it, summed
over the channels. Grad-CAM (Selvaraju et al. 2017) averages the gradient over positions first; the two are the same
where the network averages over positions itself, and where it does not (vgg16, alexnet) this one stays true to it.
"""

import contextlib
import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.classifier import Classifier
from flower_classifier.photos.views import centre, trimmed_size


@dataclass(frozen=True)
class Heatmap:
    """How much each position speaks for a class, and which box of the photo the positions divide."""

    values: np.ndarray  # float32 (h, w), 0 to 1
    box: tuple[float, float, float, float]  # left, top, right, bottom, as shares of the photo's width and height

    @property
    def shows_all(self) -> bool:
        """Whether the network sees all of the photo, or all that anybody could make out."""
        return all(abs(side - edge) < 0.005 for side, edge in zip(self.box, (0, 0, 1, 1), strict=True))


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
    here = threading.get_ident()  # other threads may run the same network for the next photos

    def start_here(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        if threading.get_ident() != here:
            return output
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()  # the layers behind may change it in place

    with last.register_forward_hook(start_here), torch.enable_grad():
        logit = classifier(batch)[0, label]
        (gradient,) = torch.autograd.grad(logit, maps[-1])  # (1, C, h, w)
    values = (maps[-1] * gradient).sum(dim=1).clamp(min=0)[0].detach().float().cpu()  # (h, w)
    values = values / values.max().clamp(min=torch.finfo(values.dtype).tiny)
    width, height = size  # and what of it the plain view shows, as shares of both
    trimmed_width, trimmed_height = trimmed_size(width, height)
    across, down = centre(width, trimmed_width), centre(height, trimmed_height)  # trimmed at each side
    left, top, right, bottom = classifier.preprocessing.plain_box(trimmed_width, trimmed_height)
    box = (across + left) / width, (down + top) / height, (across + right) / width, (down + bottom) / height
    return Heatmap(values.numpy(), box)


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
