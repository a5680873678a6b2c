"""From an architecture's name, or a short name, to a backbone: the one file that knows all sources.

Our own source has one small network, that of the classic CIFAR-10 exercise, trained from scratch.
"""

from dataclasses import replace

import torch
from torch import nn

from flower_classifier.base.messages import InputError, first_few, nearest
from flower_classifier.config.allowed import DEFAULT_IMAGE_SIZE, IMAGE_SIZE
from flower_classifier.networks.layers import last_layers
from flower_classifier.networks.source import Backbone, Source, Weights, fill_backbone
from flower_classifier.networks.timm_models import Timm
from flower_classifier.networks.torchvision_models import Torchvision
from flower_classifier.photos.views import Preprocessing

NAME = "cnn"


class Cnn(Source):
    """The source of one architecture, `cnn`. It has no pretrained weights, so all of it learns."""

    prefix = ""
    pretrained = False
    hidden_units = ()  # the classic network ends in a single Linear
    libraries = ()

    def names(self) -> list[str]:
        """Return the one name."""
        return [NAME]

    def knows(self, arch: str) -> bool:
        """Say whether this is the source of an architecture."""
        return arch == NAME

    def weights(self, arch: str, name: str | None, image_size: int | None) -> Weights:
        """Return what random weights go with: values from -1 to 1 of squares of `image_size` pixels."""
        if name is not None and name.lower() != "none":
            raise InputError(f"{name}: {arch} is trained from scratch and takes no pretrained weights", "weights")
        half, size = (0.5, 0.5, 0.5), DEFAULT_IMAGE_SIZE if image_size is None else image_size
        return Weights("none", Preprocessing(size, size, half, half, "bilinear"))

    def takes(self, arch: str, preprocessing: Preprocessing) -> bool:
        """Say whether the sizes are some that `--image_size` allows."""
        return preprocessing.resize_size == preprocessing.crop_size and IMAGE_SIZE.allow(preprocessing.crop_size)

    def build(self, arch: str, preprocessing: Preprocessing, flat: bool = False) -> Backbone:
        """Build the network up to its last layer, which is our head: (B, 3, S, S) -> (B, 64 * (S // 2) ** 2)."""
        module = ChannelsLast(
            *block(3, 32), *block(32, 32), nn.MaxPool2d(2), *block(32, 64), *block(64, 64), nn.Flatten()
        )  # fmt: skip
        return Backbone(module, 64 * (preprocessing.crop_size // 2) ** 2, preprocessing)

    def has_feature_map(self, module: nn.Module, side: int) -> bool:
        """Say that it has one."""
        return True


class ChannelsLast(nn.Sequential):
    """Layers that run in the memory format channels_last, faster on a CPU; on MPS it has had wrong results.

    The parameters stay as they are, and so do the checkpoint and the optimizer's moments.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take (B, C, S, S) to what the layers make of it."""
        if values.device.type != "mps":
            values = values.contiguous(memory_format=torch.channels_last)
        return super().forward(values)


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """Build a convolution that keeps the size, its batch norm and a ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)  # the norm brings the bias
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


SOURCES: tuple[Source, ...] = (Cnn(), Torchvision(), Timm())
SUGGESTED = 4  # names, of an architecture that there is not
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
    """Return an architecture's full name. Raises InputError for an unknown one, and names those of a family so called.

    Of `efficientnet` it names efficientnet_b0 first, the smallest; of other words the nearest valid names.
    """
    arch = ALIASES.get(name.lower(), name.lower())
    sources = sources_for(arch)
    if any(source.knows(arch) for source in sources):
        return arch
    candidates = [candidate for source in sources for candidate in source.names()]
    family = [candidate for candidate in candidates if candidate.startswith(arch)]
    close = family[:SUGGESTED] or nearest(arch, [*candidates, *ALIASES], SUGGESTED)
    hint = f"did you mean {', '.join(close)}?" if close else f"there are {first_few(candidates)}"
    timm_hint = "" if any(source.prefix for source in sources) else " (timm's are named timm/NAME)"
    raise InputError(f"{name!r}: there is no such architecture; {hint}{timm_hint}", "arch")


def load_backbone(
    arch: str, weights: str | None = None, image_size: int | None = None, flat: bool = False, fit: str = "crop"
) -> tuple[Backbone, Weights]:
    """Build `arch` with the weights of this name; `none` draws them from torch's generator.

    A pretrained backbone gives the means of its last layers too, unless it is `flat`. `fit`: how a photo becomes a
    square. Raises InputError for names and files that do not fit, NoWeightsError where a download fails.
    """
    source = source_of(arch)
    if flat and not source.has_flat(arch):
        raise InputError(f"flat is for vgg and alexnet: {arch} itself takes the mean of its last layer", "layers")
    resolved = source.weights(arch, weights, image_size)
    resolved = replace(resolved, preprocessing=replace(resolved.preprocessing, fit=fit))
    if resolved.read is None:
        backbone = source.build(arch, resolved.preprocessing, flat)
    else:
        backbone = source.build_empty(arch, resolved.preprocessing, flat)
        fill_backbone(backbone.module, resolved.read(), arch, resolved.name)
    if source.pretrained and not flat:
        side = resolved.preprocessing.crop_size
        layers, is_nonnegative = last_layers(backbone.module.eval(), side, backbone.width)
        backbone = replace(backbone.with_layers(layers), is_nonnegative=is_nonnegative)
    return backbone, resolved
