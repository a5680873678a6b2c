"""Name → backbone, feature width, preprocessing: the one place that knows the architectures.

Every classification model of torchvision's registry serves, less its original classifier; `cnn` is our own small
network, trained from scratch. Weights come through torchvision's cache and download, or from a file of one's own.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum

from errors import InputError, RunError
from images import Preprocessing
from words import first_few, nearest, reason_of

DEFAULT_IMAGE_SIZE = 32  # pixels, of the pictures that cnn takes: as in CIFAR-10
ALIASES = {"densenet": "densenet121", "vgg": "vgg16", "resnet": "resnet50"}
CLASSIFIER_NAMES = ("classifier", "fc", "head", "heads")  # what torchvision's models call the part to replace
# Auxiliary outputs serve training alone; the pretrained files of both expect the input transformed.
AUXILIARY = {"aux_logits": False, "transform_input": True, "init_weights": True}
CONSTRUCTOR_EXTRAS = {"googlenet": AUXILIARY, "inception_v3": AUXILIARY}


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier. `module` takes normalised images (B, 3, S, S) to features (B, width)."""

    module: nn.Module
    width: int
    preprocessing: Preprocessing
    weights: str = "none"  # what they are called: torchvision's name, a file's name, or none


# ------------------------------------------------------------------------------------------------------------- names


def known_archs() -> list[str]:
    """Return the names that --arch takes: `cnn` and torchvision's classification models."""
    return ["cnn", *models.list_models(module=models)]


def resolve_arch(name: str) -> str:
    """Return an architecture's full name. Raises InputError, with the nearest valid names, for an unknown one."""
    arch = ALIASES.get(name.lower(), name.lower())
    if arch in known_archs():
        return arch
    close = nearest(arch, [*known_archs(), *ALIASES])
    hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(known_archs())}"
    raise InputError(f"{name!r}: there is no such architecture; {hint}", "arch")


def resolve_weights(arch: str, weights: str | None) -> WeightsEnum | Path | None:
    """Return what --weights means for `arch`: torchvision's entry, a file, or None for random weights."""
    random = weights is not None and weights.lower() == "none"
    if arch == "cnn" and weights is not None and not random:
        raise InputError(f"{weights}: cnn is trained from scratch and takes no pretrained weights", "weights")
    if arch == "cnn" or random:
        return None
    entries = models.get_model_weights(arch)
    if weights is None or weights.upper() == "DEFAULT":
        return entries.DEFAULT
    if weights.upper() in entries.__members__:
        return entries[weights.upper()]
    if Path(weights).is_file():
        return Path(weights)
    names = ", ".join(entry.name for entry in entries)
    valid = f"valid: DEFAULT, {names}, none, a file"
    raise InputError(f"{weights}: no such file, nor weights of {arch}; {valid}", "weights")


def choose_preprocessing(arch: str, weights: WeightsEnum | Path | None, image_size: int | None) -> Preprocessing:
    """Return the preset of the chosen weights; for a file of one's own and for random weights, of the default ones."""
    if arch == "cnn":
        half = (0.5, 0.5, 0.5)  # values from -1 to 1
        size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
        return Preprocessing(size, size, half, half, "bilinear")
    entry = weights if isinstance(weights, WeightsEnum) else models.get_model_weights(arch).DEFAULT
    preset = entry.transforms()
    if image_size not in (None, preset.crop_size[0]):
        raise InputError(f"is for the cnn; {arch}'s weights want {preset.crop_size[0]} pixels", "image_size")
    return Preprocessing(
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


# ---------------------------------------------------------------------------------------------------------- building


def backbone_with_weights(arch: str, weights: str | None, image_size: int | None = None) -> Backbone:
    """Build `arch` with the weights that --weights names; `none` draws them from torch's generator.

    Raises InputError for names and files that don't fit, RunError where a download fails.
    """
    source = resolve_weights(arch, weights)
    preprocessing = choose_preprocessing(arch, source, image_size)
    if source is None:
        return build_backbone(arch, preprocessing)
    backbone = empty_backbone(arch, preprocessing)
    state = read_weights_file(source) if isinstance(source, Path) else download_weights(source)
    fill_backbone(backbone.module, state, arch, source.name)
    return replace(backbone, weights=source.name)


def build_backbone(arch: str, preprocessing: Preprocessing) -> Backbone:
    """Build an architecture with random weights, its original classifier dropped."""
    if arch == "cnn":
        module = small_cnn()
        return Backbone(module, width=64 * (preprocessing.crop_size // 2) ** 2, preprocessing=preprocessing)
    extras = CONSTRUCTOR_EXTRAS.get(arch, {})
    if arch.startswith("vit"):  # its position embedding has the size of the picture
        extras = {"image_size": preprocessing.crop_size}
    module = models.get_model(arch, weights=None, **extras)
    width = drop_classifier(module)
    return Backbone(module, width, preprocessing)


def empty_backbone(arch: str, preprocessing: Preprocessing) -> Backbone:
    """Build an architecture without memory for its tensors, to be assigned from a file.

    vgg16's random initialisation alone takes seconds. Where the constructor needs real numbers (regnet computes its
    widths with tensors) the memory is taken after all.
    """
    try:
        with torch.device("meta"):
            return build_backbone(arch, preprocessing)
    except NotImplementedError:
        return build_backbone(arch, preprocessing)


def small_cnn() -> nn.Sequential:
    """Build the network of the classic CIFAR-10 exercise up to its last layer, which is our head.

    (B, 3, S, S) -> (B, 64 * (S // 2) ** 2)
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)  # the norm brings the bias
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(3, 32), *block(32, 32), nn.MaxPool2d(2), *block(32, 64), *block(64, 64), nn.Flatten()
    )  # fmt: skip


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Return a copy in which the batch norm behind a convolution is part of its weights; itself if there is none.

    In eval mode a batch norm is a scaling and a shift (Jacob et al. 2018, section 3.2). Networks of many small layers
    gain most: mobilenet_v3_large's forward takes three quarters of the time, resnet50's 95 %.
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
        return module
    try:
        from torch.fx.experimental.optimization import fuse  # here, since what is experimental may move

        return fuse(module.eval())
    except Exception:  # of any kind: this network's forward cannot be traced, so it runs as it is
        return module


def drop_classifier(model: nn.Module) -> int:
    """Cut off everything from the classifier's first layer with weights on; return the number of features it took.

    What stands before that layer (convnext's norm) belongs to the backbone and stays, and so does a pooling behind
    it (squeezenet's), without which the features would be a map. Children keep their names, hence their tensors.
    """
    name = next(name for name in CLASSIFIER_NAMES if hasattr(model, name))
    part = getattr(model, name)
    layers = list(part.named_children()) or [("", part)]
    first = next(i for i, (_, layer) in enumerate(layers) if isinstance(layer, nn.Linear | nn.Conv2d))
    kept = [
        (child, layer)
        for i, (child, layer) in enumerate(layers)
        if (i < first and not isinstance(layer, nn.Dropout)) or isinstance(layer, nn.AdaptiveAvgPool2d)
    ]
    setattr(model, name, nn.Sequential(OrderedDict(kept)))
    weighted = layers[first][1]
    return weighted.in_features if isinstance(weighted, nn.Linear) else weighted.in_channels


# ----------------------------------------------------------------------------------------------------------- weights


def download_weights(entry: WeightsEnum) -> OrderedDict:
    """Return the state dict of torchvision's entry, from its cache or the network; a download's hash is checked."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = folder / Path(entry.url).name
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where torch announces the download
            return entry.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except Exception as error:  # no network, a hash that does not fit, or whatever a damaged file makes of the reader
        if cached.exists():
            raise RunError(f"{cached} is damaged ({reason_of(error)}): delete it, and it is fetched anew") from error
        reason = reason_of(getattr(error, "reason", error))  # an URLError's own text is clumsy
        raise RunError(
            f"cannot get the pretrained weights ({reason}).\n"
            f"Fetch {entry.url} into {folder}/ yourself, or take the architecture cnn, which needs none"
        ) from error


def read_weights_file(path: Path) -> OrderedDict:
    """Read a state dict of one's own, bare or under one of the keys that other programs save it by."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is no state dict makes the reader raise
        what = f"not a file of tensors that can be loaded safely ({reason_of(error)})"
        raise InputError(f"{path}: {what}", "weights") from None
    for key in ("state_dict", "model_state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: no state dict (a mapping from names to tensors)", "weights")
    return state


def fill_backbone(module: nn.Module, state: OrderedDict, arch: str, source: str) -> None:
    """Assign a state dict's tensors to the backbone, leaving the original classifier's behind."""
    renamed = OrderedDict((modern_name(name), tensor) for name, tensor in state.items())
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in renamed and not name.endswith("num_batches_tracked")]
    misfits = [name for name in wanted if name in renamed and renamed[name].shape != wanted[name].shape]
    if missing or misfits:
        what = f"lacks {first_few(missing)}" if missing else f"has other shapes for {first_few(misfits)}"
        raise InputError(f"{source}: these are not {arch}'s, the file {what}", "weights")
    batches_seen = torch.tensor(0)  # what files from before torch 0.4.1 lack, and eval mode never reads
    kept = OrderedDict((name, renamed.get(name, batches_seen).to(wanted[name].dtype)) for name in wanted)
    kept._metadata = wanted._metadata  # mnasnet asks for its version, and the shapes are this version's
    module.load_state_dict(kept, assign=True)


def modern_name(name: str) -> str:
    """Undo what others add to a tensor's name: DataParallel's prefix, and the dots of old densenet files."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", name.removeprefix("module."))
