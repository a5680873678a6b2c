"""Networks built without memory for their tensors, which a file will bring."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode


class Unfilled(TorchFunctionMode):
    """Makes `torch.empty` give no memory: the layers' parameters are made with it.

    `torch.device("meta")` gives none to any tensor; but regnet, for one, computes its widths with tensors.
    """

    def __torch_function__(
        self,
        function: Callable[..., object],
        _: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Call a function of torch's."""
        return function(*args, **{**(kwargs or {}), **({"device": "meta"} if function is torch.empty else {})})
