"""From an architecture's name to a backbone: the one place that knows all sources."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode

from flower_classifier.base.errors import InputError
from flower_classifier.base.words import nearest
from flower_classifier.networks.cnn import Cnn
from flower_classifier.networks.from_torchvision import Torchvision
from flower_classifier.networks.source import Backbone, Source, Weights
from flower_classifier.networks.weight_files import fill_backbone
from flower_classifier.photos.views import Preprocessing

SOURCES: tuple[Source, ...] = (Cnn(), Torchvision())
ALIASES = {"densenet": "densenet121", "vgg": "vgg16", "resnet": "resnet50"}


def known_archs() -> list[str]:
    """Return the name of every architecture that there is."""
    return [name for source in SOURCES for name in source.names()]


def source_of(arch: str) -> Source:
    """Return the source of an architecture by its full name. Raises ValueError where none has it."""
    for source in SOURCES:
        if isinstance(arch, str) and source.knows(arch):
            return source
    raise ValueError(f"there is no architecture {arch!r}")


def resolve_arch(name: str) -> str:
    """Return an architecture's full name. Raises InputError, with the nearest valid names, for an unknown one."""
    arch = ALIASES.get(name.lower(), name.lower())
    if any(source.knows(arch) for source in SOURCES):
        return arch
    close = nearest(arch, [*known_archs(), *ALIASES])
    hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(known_archs())}"
    raise InputError(f"{name!r}: there is no such architecture; {hint}", "arch")


def backbone_with_weights(
    arch: str, weights: str | None = None, image_size: int | None = None
) -> tuple[Backbone, Weights]:
    """Build `arch` with the weights of this name; `none` draws them from torch's generator.

    Raises InputError for names and files that do not fit, RunError where a download fails.
    """
    source = source_of(arch)
    chosen = source.weights(arch, weights, image_size)
    if chosen.read is None:
        return source.build(arch, chosen.preprocessing), chosen
    backbone = empty_backbone(arch, chosen.preprocessing)
    fill_backbone(backbone.module, chosen.read(), arch, chosen.name)
    return backbone, chosen


def empty_backbone(arch: str, preprocessing: Preprocessing) -> Backbone:
    """Build an architecture without memory for its tensors, to be assigned from a file.

    vgg16's random initialisation alone takes seconds. Raises ValueError for an unknown architecture.
    """
    source = source_of(arch)
    with Unfilled():
        return source.build(arch, preprocessing)


class Unfilled(TorchFunctionMode):
    """Gives no memory to what is made to be filled later, as the layers' parameters are.

    `torch.device("meta")` gives none to any tensor; but regnet, for one, computes its widths with tensors.
    """

    def __torch_function__(
        self, function: Callable, _: object, args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        """Call a function of torch's."""
        return function(*args, **{**(kwargs or {}), **({"device": "meta"} if function is torch.empty else {})})
