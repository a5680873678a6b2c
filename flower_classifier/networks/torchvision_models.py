"""torchvision's classification models as backbones: each of its registry, less its original classifier.

Weights come through torchvision's own cache and download, or from a file.
"""

import contextlib
import math
import sys
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision import models

from flower_classifier.base.messages import InputError, first_few, reason_of
from flower_classifier.config.allowed import DEFAULT_HIDDEN_UNITS
from flower_classifier.networks.source import Backbone, NoWeightsError, Source, Weights, read_weights_file
from flower_classifier.photos.views import Preprocessing

CLASSIFIER_NAMES = ("classifier", "fc", "head", "heads")  # what torchvision's models call the part to replace
# Auxiliary outputs serve training alone; the pretrained files of both expect the input transformed.
AUXILIARY = {"aux_logits": False, "transform_input": True, "init_weights": True}
CONSTRUCTOR_EXTRAS = {"googlenet": AUXILIARY, "inception_v3": AUXILIARY}


class Torchvision(Source):
    """The source of torchvision's classification models."""

    prefix = ""
    pretrained = True
    hidden_units = (DEFAULT_HIDDEN_UNITS,)
    libraries = (torchvision,)

    def names(self) -> list[str]:
        """Return the names of all classification models, those with the fewest parameters first."""

        def size(name: str) -> int:
            return int(models.get_model_weights(name).DEFAULT.meta["num_params"])

        return sorted(models.list_models(module=models), key=size)

    def knows(self, arch: str) -> bool:
        """Say whether torchvision has such a classification model; its other models could download something."""
        try:
            builder = models.get_model_builder(arch)
        except ValueError:
            return False
        return builder.__module__.rpartition(".")[0] == models.__name__ and builder.__name__ == arch

    def weights(self, arch: str, name: str | None, image_size: int | None) -> Weights:
        """Return torchvision's weights of this name (None: DEFAULT), a file's, or random ones for `none`.

        A file and random weights come with the preset of the default weights.
        """
        entries = models.get_model_weights(arch)
        requested = "DEFAULT" if name is None else name.upper()
        entry = entries.DEFAULT if requested == "DEFAULT" else entries.__members__.get(requested)
        if name is None or entry:
            preprocessing = preset_of(arch, entry, image_size)
            return Weights(entry.name, preprocessing, entry.meta.get("license", ""), partial(download_weights, entry))
        preprocessing = preset_of(arch, entries.DEFAULT, image_size)
        if name.lower() == "none":
            return Weights("none", preprocessing)
        path = Path(name)
        if path.is_file():
            return Weights(path.name, preprocessing, read=partial(read_weights_file, path))
        valid = f"valid: DEFAULT, {', '.join(entry.name for entry in entries)}, none, a file"
        raise InputError(f"{name}: no such file, nor weights of {arch}; {valid}", "weights")

    def has_flat(self, arch: str) -> bool:
        """Say so of vgg and alexnet."""
        return arch == "alexnet" or arch.startswith("vgg")

    def takes(self, arch: str, preprocessing: Preprocessing) -> bool:
        """Say whether torchvision has weights that expect these sizes."""
        presets = [preset_of(arch, entry) for entry in models.get_model_weights(arch)]
        sizes = [(preset.resize_size, preset.crop_size) for preset in presets]
        return (preprocessing.resize_size, preprocessing.crop_size) in sizes

    def build(self, arch: str, preprocessing: Preprocessing, flat: bool = False) -> Backbone:
        """Build an architecture with random weights, its original classifier left out.

        vgg16 and alexnet hand their last layer on position by position; unless it is to be `flat`, its mean is taken,
        as all other architectures do.
        """
        extras: Mapping[str, int] = CONSTRUCTOR_EXTRAS.get(arch, {})
        if arch.startswith("vit"):  # a vision transformer's position embedding has the size of the picture
            extras = {"image_size": preprocessing.crop_size}
        module = models.get_model(arch, weights=None, **extras)
        width = drop_classifier(module)
        if self.has_flat(arch) and not flat:
            width //= math.prod(module.avgpool.output_size)
            module.avgpool = nn.AdaptiveAvgPool2d(1)
        return Backbone(module, width, preprocessing)

    def has_feature_map(self, module: nn.Module, side: int) -> bool:
        """Say whether the last layers have positions; a vision transformer's only map is its input in patches."""
        return not isinstance(module, models.VisionTransformer)


def preset_of(arch: str, entry: models.WeightsEnum, image_size: int | None = None) -> Preprocessing:
    """Return what torchvision says its weights expect. Raises InputError for any other image size."""
    preset = entry.transforms()
    if image_size not in (None, preset.crop_size[0]):
        raise InputError(
            f"is for cnn and timm's models; {arch} always takes {preset.crop_size[0]} pixels", "image_size"
        )
    return Preprocessing(
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def drop_classifier(model: nn.Module) -> int:
    """Cut off everything from the classifier's first layer with weights on; return the number of features it took.

    What stands before that layer (convnext's norm) belongs to the backbone and stays, and so does a pooling behind
    it (squeezenet's), without which the features would be a map. Children keep their names, hence their tensors.
    """
    name = next(name for name in CLASSIFIER_NAMES if hasattr(model, name))
    classifier = getattr(model, name)
    layers = list(classifier.named_children()) or [("", classifier)]
    first = next(i for i, (_, layer) in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    remaining = [
        (child, layer)
        for i, (child, layer) in enumerate(layers)
        if (i < first and not isinstance(layer, nn.Dropout)) or isinstance(layer, nn.AdaptiveAvgPool2d)
    ]
    setattr(model, name, nn.Sequential(OrderedDict(remaining)))
    weighted = layers[first][1]
    return weighted.in_features if isinstance(weighted, nn.Linear) else weighted.in_channels


def download_weights(entry: models.WeightsEnum) -> Mapping[str, torch.Tensor]:
    """Return the state dict of torchvision's entry, from its cache or the network; a download's hash is checked."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = folder / Path(entry.url).name
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where torch announces the download
            return entry.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except Exception as error:  # no network, a hash that does not fit, or whatever a damaged file makes of the reader
        if cached.exists():
            again = "delete it, and the next run fetches it again"
            raise NoWeightsError(f"{cached} is damaged ({reason_of(error)}): {again}") from error
        reason = reason_of(getattr(error, "reason", error))  # an URLError's own text is clumsy
        raise NoWeightsError(
            f"cannot get the pretrained weights ({reason}).\n"
            f"Fetch {entry.url} into {folder}/ yourself, or take {usable_offline(folder)}"
        ) from error


def usable_offline(folder: Path) -> str:
    """Say which architectures need no download: the cnn, and those whose weights are in torchvision's cache."""
    there = [
        arch if entry is entries.DEFAULT else f"{arch} ({entry.name})"
        for arch in models.list_models(module=models)
        for entries in [models.get_model_weights(arch)]
        for entry in entries
        if (folder / Path(entry.url).name).is_file()
    ]
    cnn = "the architecture cnn, which needs none"
    return f"{cnn}, or one whose weights are there: {first_few(there)}" if there else cnn
