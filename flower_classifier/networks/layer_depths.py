"""How deep each layer of a backbone lies, found out by running it: no list of architectures has to be kept."""

from __future__ import annotations

import torch
from torch import nn

from flower_classifier.networks.black_picture import black


@torch.no_grad()
def parameter_depths(backbone: nn.Module, side: int) -> dict[str, float]:
    """Return the depth of each parameter by name: 0 for those of the layer that runs first, 1 for those that run last.

    `side`: of the pictures it takes, in pixels. The parameters of a module that is not called itself (those of
    attention, which torch computes in one function) lie as deep as the module that holds it.
    """
    order = called_in_order(backbone, side)
    last = len(order) - 1
    depths = {}
    for name, _ in backbone.named_parameters():
        owner = name.rpartition(".")[0]
        while owner and owner not in order:
            owner = owner.rpartition(".")[0]
        depths[name] = order.get(owner, 0) / last if last else 1.0  # a class token, the backbone's own, comes first
    return depths


def called_in_order(backbone: nn.Module, side: int) -> dict[str, int]:
    """Show a backbone a black picture; return the place of each module with parameters of its own, by its name."""
    order: dict[str, int] = {}

    def note_call(name: str) -> None:
        order.setdefault(name, len(order))

    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: note_call(name))
        for name, module in backbone.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        backbone(black(backbone, side))
    finally:
        for handle in handles:
            handle.remove()
    return order
