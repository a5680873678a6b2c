"""The picture that networks are shown to find out what they do with it."""

from __future__ import annotations

import torch
from torch import nn


def black(module: nn.Module, side: int) -> torch.Tensor:
    """Return a picture of zeros, (1, 3, side, side), where a network is."""
    return torch.zeros(1, 3, side, side, device=next(module.parameters()).device)
