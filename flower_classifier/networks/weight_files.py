"""Weights from files of other programs: read safely, renamed, and assigned to a backbone."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from flower_classifier.base.errors import InputError, ToldError
from flower_classifier.base.words import first_few, reason_of


def read_weights_file(path: Path) -> Mapping[str, torch.Tensor]:
    """Read a state dict of one's own, from a file of torch.save's or in the format safetensors."""
    read = read_safetensors if path.suffix.lower() == ".safetensors" else read_pickle
    try:
        state = read(path)
    except ToldError:
        raise
    except Exception as error:  # whatever a file that is no state dict makes the reader raise
        what = f"not a file of tensors that can be loaded safely ({reason_of(error)})"
        raise InputError(f"{path}: {what}", "weights") from None
    state = state_dict_in(state)
    if state is None:
        raise InputError(f"{path}: no state dict (a mapping from names to tensors)", "weights")
    return state


def read_pickle(path: Path) -> object:
    """Read what torch.save wrote: tensors and plain values, never code.

    The options of the training that made it may be there too, as timm's and others' programs keep them.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a file in the format safetensors. Raises InputError where that package is missing."""
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"{path}: needs safetensors, which is not installed: pip install safetensors") from None
    return load_file(path)


def state_dict_in(contents: object) -> Mapping[str, torch.Tensor] | None:
    """Return the state dict that a file holds, bare or under one of the keys that other programs save it by.

    Where a training's average is there too (EMA), that is the one to use.
    """
    for key in ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model"):
        inner = contents.get(key) if isinstance(contents, dict) else None
        contents = inner if isinstance(inner, dict) else contents
    if isinstance(contents, dict) and all(isinstance(value, torch.Tensor) for value in contents.values()):
        return contents
    return None


def fill_backbone(module: nn.Module, state: Mapping[str, torch.Tensor], arch: str, weights: str) -> None:
    """Assign a state dict's tensors to a backbone, leaving the original classifier's behind.

    Raises InputError where tensors are missing or have other shapes.
    """
    renamed = {modern_name(name): tensor for name, tensor in state.items()}
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in renamed and not name.endswith("num_batches_tracked")]
    misfits = [name for name in wanted if name in renamed and renamed[name].shape != wanted[name].shape]
    if missing or misfits:
        what = f"lacks {first_few(missing)}" if missing else f"has other shapes for {first_few(misfits)}"
        raise InputError(f"{weights}: these are not {arch}'s, the file {what}", "weights")
    batches_seen = torch.tensor(0)  # what files from before torch 0.4.1 lack, and eval mode never reads
    # In the module's own dict, which also says its version: mnasnet asks for it, and the shapes are this version's
    wanted.update({name: renamed.get(name, batches_seen).to(wanted[name].dtype) for name in wanted})
    module.load_state_dict(wanted, assign=True)


def modern_name(name: str) -> str:
    """Undo what others add to a tensor's name: DataParallel's prefix, and the dots of old densenet files."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", name.removeprefix("module."))
