"""timm's classification models as backbones, by the names that timm has for them: `timm/NAME` or `timm/NAME.TAG`.

timm is optional, and is loaded when one of its models is named. Weights come through timm's own cache and download, or
from a file; timm renames old tensors and resamples position embeddings for another size of picture.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import note
from flower_classifier.base.words import first_few, reason_of
from flower_classifier.networks.sizes import DEFAULT_HIDDEN_UNITS, IMAGE_SIZE
from flower_classifier.networks.source import Backbone, Source, Weights
from flower_classifier.networks.timm_layers import Features, has_places, in_plain_layers
from flower_classifier.networks.timm_weights import PREFIX, create, download, read_file, stated_for, timm
from flower_classifier.photos.views import FILTERS, Preprocessing

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

# A name and perhaps a tag. Nothing else is passed to timm, which would look elsewhere for `hf-hub:` and `local-dir:`.
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
# Vision transformers for large pictures take this size unless another is asked for: the cost grows with the area, and
# flowers are told apart at this size. It is a multiple of every patch.
PLAIN_SIZE, LARGE_SIZE = 224, 448
RESIZABLE = ("vision_transformer", "eva")  # timm's files of such transformers
MOST_CROPPED = 2  # resize_size is at most so many times crop_size


class Timm(Source):
    """The source of timm's classification models."""

    prefix = PREFIX
    pretrained = True
    hidden_units = (DEFAULT_HIDDEN_UNITS,)

    @property
    def libraries(self) -> tuple[ModuleType, ...]:
        """Timm itself."""
        return (timm(),)

    def names(self) -> list[str]:
        """Return the names of all models, without tags."""
        return [PREFIX + name for name in timm().list_models()]

    def knows(self, arch: str) -> bool:
        """Say whether timm has such a model, and weights of such a tag. Raises InputError where timm is missing."""
        name = arch.removeprefix(PREFIX)
        if not arch.startswith(PREFIX) or not NAME.fullmatch(name):
            return False
        model, _, tag = name.partition(".")
        # Of old names timm states nothing
        is_known = timm().is_model(model) and timm().get_pretrained_cfg(model) is not None
        return is_known and (not tag or tag in tags_of(model))

    def weights(self, arch: str, name: str | None, image_size: int | None) -> Weights:
        """Return the weights of the architecture's tag (None, DEFAULT), of another tag, of a file, or none.

        A file and random weights come with what timm states for the architecture.
        """
        model, _, tag = arch.removeprefix(PREFIX).partition(".")
        known = "" if name is None or name.upper() == "DEFAULT" else name.lower()
        is_tag = known in tags_of(model)
        stated = stated_for(f"{model}.{known}" if is_tag else arch)
        preprocessing = preprocessing_of(arch, stated, image_size)
        if known == "none":
            return Weights("none", preprocessing)
        if name is None or is_tag or not known:
            full_name = f"{model}.{known or stated.tag or tag}".removesuffix(".")
            if not stated.has_weights:
                raise InputError(f"timm has no weights for {arch}; {choices(model)}", "weights")
            read = functools.partial(download, full_name, preprocessing, stated)
            return Weights(full_name, preprocessing, stated.license or "", read)
        path = Path(name)
        if not path.is_file():
            raise InputError(f"{name}: no such file, nor weights of {arch}; {choices(model)}", "weights")
        note(f"{path.name}: taken as timm's {stated.architecture}.{stated.tag}: {described(preprocessing)}")
        return Weights(path.name, preprocessing, read=functools.partial(read_file, path, arch, preprocessing))

    def takes(self, arch: str, preprocessing: Preprocessing) -> bool:
        """Say whether the sizes are such as `--image_size` allows; position embeddings have their own say."""
        crop, resize = preprocessing.crop_size, preprocessing.resize_size
        return IMAGE_SIZE.allow(crop) and crop <= resize <= MOST_CROPPED * crop

    def build(self, arch: str, preprocessing: Preprocessing) -> Backbone:
        """Build an architecture with random weights, its original classifier left out."""
        module = Features(create(arch.removeprefix(PREFIX), preprocessing.crop_size))
        return Backbone(module, module.feature_width, preprocessing)

    def build_empty(self, arch: str, preprocessing: Preprocessing) -> Backbone:
        """Build an architecture without memory for its tensors; those that no file holds are computed after loading."""
        try:
            with torch.device("meta"):
                backbone = self.build(arch, preprocessing)
            check_computable(backbone.module)
        except (NotImplementedError, RuntimeError):  # it computes with tensors while it is built
            return self.build(arch, preprocessing)
        backbone.module.register_load_state_dict_post_hook(fill_computed)
        return backbone

    def in_plain_layers(self, module: nn.Module, side: int) -> nn.Module:
        """Return a copy that computes the same of pictures of `side` pixels in torch's own layers, where it can be."""
        return in_plain_layers(module, side)

    def has_feature_map(self, module: nn.Module, side: int) -> bool:
        """Say whether the last features have places, with channels before them; transformers have tokens instead."""
        return has_places(module, side)


def tags_of(model: str) -> list[str]:
    """Return the tags of the weights that timm knows for a model; "" is none of them."""
    names = timm().list_pretrained(f"{model}.*") if timm().is_model(model) else []
    return [name.partition(".")[2] for name in names]


def choices(model: str) -> str:
    """Say what may be asked for in place of weights that there are not."""
    tags = tags_of(model)
    return f"valid: {f'{first_few(tags)}, ' if tags else ''}none, a file"


def preprocessing_of(arch: str, stated: PretrainedCfg, image_size: int | None) -> Preprocessing:
    """Return what the weights expect, at the size that is asked for. Raises InputError for what cannot be done.

    timm resizes the shorter side to the size divided by `crop_pct`, rounded down. Weights that were evaluated on
    squashed pictures, or bordered ones, get the centre like all others; so do those with a `crop_pct` above 1.
    """
    channels, height, width = stated.input_size
    if channels != 3 or height != width:
        raise InputError(f"{arch} takes pictures of {height} x {width} with {channels} channels, not squares", "arch")
    size = image_size or height
    if image_size is None and height >= LARGE_SIZE and family(arch) in RESIZABLE:
        size = PLAIN_SIZE
    if size != height and image_size is not None:
        check_size(arch, size)
    return Preprocessing(
        resize_size=max(size, math.floor(size / stated.crop_pct)),
        crop_size=size,
        mean=rgb(stated.mean),
        std=rgb(stated.std),
        interpolation=stated.interpolation if stated.interpolation in FILTERS else "bicubic",
    )


def rgb(numbers: Sequence[float]) -> tuple[float, float, float]:
    """Return the three numbers that there are, one for each channel."""
    red, green, blue = numbers
    return red, green, blue


def family(arch: str) -> str:
    """Return the name of timm's file that an architecture is in."""
    name = arch.removeprefix(PREFIX).partition(".")[0]
    return timm().model_entrypoint(name).__module__.rpartition(".")[2]


def check_size(arch: str, size: int) -> None:
    """Raise InputError unless an architecture runs on squares of `size` pixels, by running it."""
    try:
        with torch.inference_mode():
            Features(create(arch.removeprefix(PREFIX), size)).eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # of any kind: each family has its own way to refuse
        raise InputError(f"{arch} takes no pictures of {size} pixels ({reason_of(error)})", "image_size") from None


def described(preprocessing: Preprocessing) -> str:
    """Say what a photo goes through, in a line."""
    mean, std = ("/".join(f"{number:g}" for number in numbers) for numbers in (preprocessing.mean, preprocessing.std))
    cut = f"{preprocessing.crop_size} pixels out of {preprocessing.resize_size}"
    return f"{cut}, {preprocessing.interpolation}, mean {mean}, standard deviation {std}"


@runtime_checkable
class Computable(Protocol):
    """A layer of timm's that can compute again the buffers that are not saved."""

    def init_non_persistent_buffers(self) -> None:
        """Fill them."""


def check_computable(module: nn.Module) -> None:
    """Raise NotImplementedError unless timm has a function for every buffer that is computed and not saved."""
    for layer in module.modules():
        names = list(computed_in(layer))
        if names and not isinstance(layer, Computable):
            raise NotImplementedError(f"{type(layer).__name__} computes {first_few(names)} in its constructor alone")


def fill_computed(module: nn.Module, _: object) -> None:
    """Give memory to the buffers that are computed and not saved, and compute them: the parameters are there now."""
    for layer in module.modules():
        buffers = computed_in(layer)
        for name, buffer in buffers.items():
            layer._buffers[name] = torch.empty_like(buffer, device="cpu")
        if buffers and isinstance(layer, Computable):  # as check_computable has seen to
            layer.init_non_persistent_buffers()


def computed_in(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Return a layer's buffers that are computed and not saved, by their names."""
    return {name: buffer for name in layer._non_persistent_buffers_set if (buffer := layer._buffers[name]) is not None}
