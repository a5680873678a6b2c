"""timm's classification models as backbones, by the names that timm has for them: `timm/NAME` or `timm/NAME.TAG`.

timm is optional, and is loaded when one of its models is named. Weights come through timm's own cache and download, or
from a file, and are always complete; timm renames old tensors and resamples position embeddings for another size of
picture.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from flower_classifier.base.messages import InputError, first_few, note, reason_of
from flower_classifier.config.allowed import DEFAULT_HIDDEN_UNITS, IMAGE_SIZE
from flower_classifier.networks.source import (
    Backbone,
    NoWeightsError,
    Source,
    Weights,
    black_picture,
    read_weights_file,
)
from flower_classifier.networks.timm_layers import Features, TimmModel, in_plain_layers
from flower_classifier.photos.views import FILTERS, Preprocessing

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


PREFIX = "timm/"


@functools.cache
def timm() -> ModuleType:
    """Return timm. Raises InputError where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that timm keeps for older programs
            import timm as module  # here: it takes a second to load, and most runs need none
    except ImportError as error:
        if error.name != "timm":
            raise InputError(f"timm cannot be loaded ({reason_of(error)}): pip install --upgrade timm") from error
        raise InputError("architectures of timm/ need timm, which is not installed: pip install timm") from None
    return module


def create(name: str, size: int, **options: object) -> TimmModel:
    """Build timm's model of a name without its classifier, for pictures of `size` pixels. Raises whatever timm does."""
    stated: PretrainedCfg = timm().get_pretrained_cfg(name)
    if stated.fixed_input_size and size != stated.input_size[-1]:
        options["img_size"] = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated names, and of tensors without memory
        return timm().create_model(name, num_classes=0, **options)


def download(name: str, preprocessing: Preprocessing, stated: PretrainedCfg) -> Mapping[str, torch.Tensor]:
    """Return the tensors of timm's own weights, from its cache or the network, as `Timm.build` has them."""
    try:
        check_reachable(stated)
        with contextlib.redirect_stdout(sys.stderr), loading_recorded() as (missing, _):
            model = create(name, preprocessing.crop_size, pretrained=True)
        if missing:
            raise ValueError(f"the file lacks {first_few(missing)}")
    except Exception as error:  # no network, or whatever a damaged file makes of the reader
        where = f"https://huggingface.co/{stated.hf_hub_id}" if stated.hf_hub_id else stated.url
        raise NoWeightsError(
            f"cannot get the pretrained weights ({reason_of(error)}).\n"
            f"Fetch them from {where} yourself, and give the file with --weights"
        ) from error
    return Features(model).state_dict()


@contextlib.contextmanager
def loading_recorded() -> Iterator[tuple[list[str], list[str]]]:
    """Record which tensors are missing, and which unexpected, where a state dict is loaded: timm only logs it."""
    missing: list[str] = []
    unexpected: list[str] = []
    load, log = nn.Module.load_state_dict, logging.getLogger("timm")
    level = log.level

    def recorded(module: nn.Module, state: Mapping[str, object], strict: bool = True, assign: bool = False) -> object:
        result = load(module, state, strict, assign)
        missing.extend(name for name in result.missing_keys if not name.endswith("num_batches_tracked"))
        unexpected.extend(result.unexpected_keys)
        return result

    nn.Module.load_state_dict = recorded  # type: ignore[method-assign, assignment]  # no other way leads into timm's calls
    log.setLevel(logging.ERROR)
    try:
        yield missing, unexpected
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]  # as it was
        log.setLevel(level)


def check_reachable(stated: PretrainedCfg) -> None:
    """Raise at once where the hub cannot be reached and its cache lacks the file: timm would try for a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = (stated.hf_hub_id or "").partition("@")
    file = stated.hf_hub_filename or "model.safetensors"
    if repository and try_to_load_from_cache(repository, file, revision=revision or None) is None:
        with contextlib.suppress(EntryNotFoundError):  # the hub has an older kind of file instead
            get_hf_file_metadata(hf_hub_url(repository, file, revision=revision or None))


def read_file(path: Path, arch: str, preprocessing: Preprocessing) -> Mapping[str, torch.Tensor]:
    """Return a file's tensors, as `Timm.build` has them, whatever classifier it holds.

    Raises InputError where tensors are missing, have other shapes, or are another network's.
    """
    from timm.models import clean_state_dict

    name, size = arch.removeprefix(PREFIX), preprocessing.crop_size
    state = clean_state_dict(dict(read_weights_file(path)))
    # With another number of classes stated than is built, timm leaves the classifier out
    overlay = {"state_dict": state, "num_classes": 1, "custom_load": False}
    try:
        with loading_recorded() as (missing, unexpected):
            model = create(name, size, pretrained=True, pretrained_cfg_overlay=overlay)
        with torch.device("meta"):
            whole, headless = (timm().create_model(name, num_classes=classes) for classes in (1, 0))
        classifier = set(whole.state_dict()) - set(headless.state_dict())
        strange = sorted(set(unexpected) - classifier)
        clauses = [f"lacks {first_few(missing)}"] * bool(missing) + [f"also holds {first_few(strange)}"] * bool(strange)
        if clauses:
            raise ValueError(f"the file {' and '.join(clauses)}")
    except Exception as error:  # of any kind: families read old files in their own ways
        reason = reason_of(str(error).partition(":\n")[2] or error)
        raise InputError(f"{path.name}: these are not {arch}'s weights: {reason}", "weights") from error
    return Features(model).state_dict()


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
        # timm states nothing for deprecated names
        is_known = timm().is_model(model) and timm().get_pretrained_cfg(model) is not None
        return is_known and (not tag or tag in tags_of(model))

    def weights(self, arch: str, name: str | None, image_size: int | None) -> Weights:
        """Return the weights of the architecture's tag (None, DEFAULT), of another tag, of a file, or none.

        A file and random weights come with the preprocessing that timm states for the architecture.
        """
        name_in_timm = arch.removeprefix(PREFIX)
        model, _, tag = name_in_timm.partition(".")
        requested = "" if name is None or name.upper() == "DEFAULT" else name.lower()
        is_tag = requested in tags_of(model)
        stated: PretrainedCfg = timm().get_pretrained_cfg(f"{model}.{requested}" if is_tag else name_in_timm)
        preprocessing = preprocessing_of(arch, stated, image_size)
        if requested == "none":
            return Weights("none", preprocessing)
        if name is None or is_tag or not requested:
            full_name = f"{model}.{requested or stated.tag or tag}".removesuffix(".")
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

    def build(self, arch: str, preprocessing: Preprocessing, flat: bool = False) -> Backbone:
        """Build an architecture with random weights, its original classifier left out."""
        module = Features(create(arch.removeprefix(PREFIX), preprocessing.crop_size))
        return Backbone(module, module.feature_width, preprocessing)

    def build_empty(self, arch: str, preprocessing: Preprocessing, flat: bool = False) -> Backbone:
        """Build an architecture without memory for its tensors; those that no file holds are computed after loading."""
        try:
            with torch.device("meta"):
                backbone = self.build(arch, preprocessing, flat)
        except (NotImplementedError, RuntimeError):  # it computes with tensors while it is built
            return self.build(arch, preprocessing, flat)
        if not all(isinstance(layer, Computable) for layer in backbone.module.modules() if computed_in(layer)):
            return self.build(arch, preprocessing, flat)  # its constructor alone can compute them
        backbone.module.register_load_state_dict_post_hook(fill_computed)
        return backbone

    def folded(self, module: nn.Module, side: int) -> nn.Module:
        """Return a copy with the same output for pictures of `side` pixels, in torch's own layers, norms folded."""
        return super().folded(in_plain_layers(module, side), side)

    @torch.no_grad()
    def has_feature_map(self, module: nn.Module, side: int) -> bool:
        """Say whether features are pooled from a map with channels first, (B, C, h, w); transformers have tokens."""
        if not isinstance(module, Features) or module.by_token or getattr(module.model, "output_fmt", "NCHW") != "NCHW":
            return False
        features = module.model.forward_features(black_picture(module, side))
        return isinstance(features, torch.Tensor) and features.dim() == 4


def tags_of(model: str) -> list[str]:
    """Return the tags of the weights that timm knows for a model; "" is none of them."""
    names = timm().list_pretrained(f"{model}.*") if timm().is_model(model) else []
    return [name.partition(".")[2] for name in names]


def choices(model: str) -> str:
    """Say which weights may be asked for instead of missing ones."""
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
    model = arch.removeprefix(PREFIX).partition(".")[0]
    family = timm().model_entrypoint(model).__module__.rpartition(".")[2]  # the name of timm's file
    if image_size is None and height >= LARGE_SIZE and family in RESIZABLE:
        size = PLAIN_SIZE
    if size != height and image_size is not None:
        check_size(arch, size)
    mean, std = ((red, green, blue) for red, green, blue in (stated.mean, stated.std))
    return Preprocessing(
        resize_size=max(size, math.floor(size / stated.crop_pct)),
        crop_size=size,
        mean=mean,
        std=std,
        interpolation=stated.interpolation if stated.interpolation in FILTERS else "bicubic",
    )


def check_size(arch: str, size: int) -> None:
    """Raise InputError unless an architecture runs on squares of `size` pixels, by running it."""
    try:
        with torch.inference_mode():
            module = Features(create(arch.removeprefix(PREFIX), size)).eval()
            module(black_picture(module, size))
    except Exception as error:  # of any kind: each family has its own way to refuse
        raise InputError(f"{arch} takes no pictures of {size} pixels ({reason_of(error)})", "image_size") from None


def described(preprocessing: Preprocessing) -> str:
    """Say what a photo goes through, in a line."""
    mean, std = ("/".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    cut = f"{preprocessing.crop_size} pixels out of {preprocessing.resize_size}"
    return f"{cut}, {preprocessing.interpolation}, mean {mean}, standard deviation {std}"


@runtime_checkable
class Computable(Protocol):
    """A layer of timm's that can compute again the buffers that are not saved."""

    def init_non_persistent_buffers(self) -> None:
        """Fill them."""


def fill_computed(module: nn.Module, _: object) -> None:
    """Give memory to the buffers that are computed and not saved, and compute them: the parameters are there now."""
    for layer in module.modules():
        buffers = computed_in(layer)
        for name, buffer in buffers.items():
            layer._buffers[name] = torch.empty_like(buffer, device="cpu")
        if buffers and isinstance(layer, Computable):  # as `build_empty` has seen to
            layer.init_non_persistent_buffers()


def computed_in(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Return a layer's buffers that are computed and not saved, by their names."""
    return {name: buffer for name in layer._non_persistent_buffers_set if (buffer := layer._buffers[name]) is not None}
