"""The small network of the classic CIFAR-10 exercise: our own, trained from scratch."""

from __future__ import annotations

import torch
from torch import nn

from flower_classifier.base.errors import InputError
from flower_classifier.networks.sizes import DEFAULT_IMAGE_SIZE, IMAGE_SIZE
from flower_classifier.networks.source import Backbone, Source, Weights
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

    def build(self, arch: str, preprocessing: Preprocessing) -> Backbone:
        """Build the network up to its last layer, which is our head: (B, 3, S, S) -> (B, 64 * (S // 2) ** 2)."""
        module = ChannelsLast(
            *block(3, 32), *block(32, 32), nn.MaxPool2d(2), *block(32, 64), *block(64, 64), nn.Flatten()
        )  # fmt: skip
        return Backbone(module, 64 * (preprocessing.crop_size // 2) ** 2, preprocessing)

    def has_feature_map(self, module: nn.Module, side: int) -> bool:
        """Say that it has one."""
        return True


class ChannelsLast(nn.Sequential):
    """Layers that run on a photo's values pixel by pixel, which a CPU does faster; on MPS that has had wrong results.

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
