"""timm itself, loaded when it is needed, and weights for its models: downloaded or from a file, and always complete."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn

from flower_classifier.base.errors import InputError, RunError
from flower_classifier.base.words import first_few, reason_of
from flower_classifier.networks.timm_layers import Features, TimmModel
from flower_classifier.networks.weight_files import read_weights_file
from flower_classifier.photos.views import Preprocessing

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


def stated_for(name: str) -> PretrainedCfg:
    """Return what timm states for a name that it knows, with or without a tag: sizes, mean, licence."""
    return timm().get_pretrained_cfg(name.removeprefix(PREFIX))


def create(name: str, size: int, **options: object) -> TimmModel:
    """Build timm's model of a name without its classifier, for pictures of `size` pixels. Raises whatever timm does."""
    stated = stated_for(name)
    if stated.fixed_input_size and size != stated.input_size[-1]:
        options["img_size"] = size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated names, and of tensors without memory
        return timm().create_model(name, num_classes=0, **options)


def download(name: str, preprocessing: Preprocessing, stated: PretrainedCfg) -> Mapping[str, torch.Tensor]:
    """Return the tensors of timm's own weights, from its cache or the network, as `Timm.build` has them."""
    try:
        check_reachable(stated)
        with contextlib.redirect_stdout(sys.stderr), loading_recorded() as found:
            model = create(name, preprocessing.crop_size, pretrained=True)
        if missing := found.missing:
            raise ValueError(f"the file lacks {first_few(missing)}")
    except Exception as error:  # no network, or whatever a damaged file makes of the reader
        where = f"https://huggingface.co/{stated.hf_hub_id}" if stated.hf_hub_id else stated.url
        raise RunError(
            f"cannot get the pretrained weights ({reason_of(error)}).\n"
            f"Fetch them from {where} yourself, and give the file with --weights"
        ) from error
    return Features(model).state_dict()


@dataclass
class Loaded:
    """What torch says of the state dicts that were loaded."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


@contextlib.contextmanager
def loading_recorded() -> Iterator[Loaded]:
    """Record which tensors are missing or unexpected where a state dict is loaded: timm only writes it to its log."""
    found, load, log = Loaded(), nn.Module.load_state_dict, logging.getLogger("timm")
    level = log.level

    def recorded(module: nn.Module, state: Mapping[str, object], strict: bool = True, assign: bool = False) -> object:
        result = load(module, state, strict, assign)
        found.missing += [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
        found.unexpected += result.unexpected_keys
        return result

    nn.Module.load_state_dict = recorded  # type: ignore[method-assign, assignment]  # no other way leads into timm's calls
    log.setLevel(logging.ERROR)
    try:
        yield found
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
        with loading_recorded() as found:
            model = create(name, size, pretrained=True, pretrained_cfg_overlay=overlay)
        strange = sorted(set(found.unexpected) - set(classifier_names(name)))
        if found.missing or strange:
            raise ValueError(difference(found.missing, strange))
    except Exception as error:  # of any kind: families read old files in their own ways
        what = reason_of(str(error).partition(":\n")[2] or error)
        raise InputError(f"{path.name}: these are not {arch}'s weights: {what}", "weights") from error
    return Features(model).state_dict()


def difference(missing: Sequence[str], strange: Sequence[str]) -> str:
    """Say which tensors a file lacks, and which it has that have no place."""
    parts = [f"lacks {first_few(missing)}"] * bool(missing) + [f"also holds {first_few(strange)}"] * bool(strange)
    return f"the file {' and '.join(parts)}"


def classifier_names(name: str) -> set[str]:
    """Return the names of a model's tensors that belong to its classifier."""
    with torch.device("meta"):
        whole, headless = (timm().create_model(name, num_classes=number) for number in (1, 0))
    return set(whole.state_dict()) - set(headless.state_dict())
