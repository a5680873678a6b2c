"""From an architecture's name to a backbone: the one place that knows all sources."""

from __future__ import annotations

from flower_classifier.base.errors import InputError
from flower_classifier.base.words import first_few, nearest
from flower_classifier.networks.cnn import Cnn
from flower_classifier.networks.from_timm import Timm
from flower_classifier.networks.from_torchvision import Torchvision
from flower_classifier.networks.source import Backbone, Source, Weights
from flower_classifier.networks.weight_files import fill_backbone
from flower_classifier.photos.views import Preprocessing

SOURCES: tuple[Source, ...] = (Cnn(), Torchvision(), Timm())
ALIASES = {"densenet": "densenet121", "vgg": "vgg16", "resnet": "resnet50"}


def sources_for(arch: str) -> list[Source]:
    """Return the sources among which a name is looked up: the one with its prefix, or those without any."""
    prefixed = [source for source in SOURCES if source.prefix and arch.startswith(source.prefix)]
    return prefixed or [source for source in SOURCES if not source.prefix]


def source_of(arch: str) -> Source:
    """Return the source of an architecture by its full name. Raises ValueError where none has it."""
    for source in sources_for(arch) if isinstance(arch, str) else ():
        if source.knows(arch):
            return source
    raise ValueError(f"there is no architecture {arch!r}")


def resolve_arch(name: str) -> str:
    """Return an architecture's full name. Raises InputError, with the nearest valid names, for an unknown one."""
    arch = ALIASES.get(name.lower(), name.lower())
    sources = sources_for(arch)
    if any(source.knows(arch) for source in sources):
        return arch
    known = [other for source in sources for other in source.names()]
    close = nearest(arch, [*known, *ALIASES])
    hint = f"did you mean {', '.join(close)}?" if close else f"there are {first_few(known)}"
    others = "" if any(source.prefix for source in sources) else " (timm's are named timm/NAME)"
    raise InputError(f"{name!r}: there is no such architecture; {hint}{others}", "arch")


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
    backbone = source.build_empty(arch, chosen.preprocessing)
    fill_backbone(backbone.module, chosen.read(), arch, chosen.name)
    return backbone, chosen


def empty_backbone(arch: str, preprocessing: Preprocessing) -> Backbone:
    """Build an architecture without memory for its tensors. Raises ValueError for an unknown architecture."""
    return source_of(arch).build_empty(arch, preprocessing)
