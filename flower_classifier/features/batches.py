"""Batches of a split's rows, on the device that learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from flower_classifier.base.randomness import generator
from flower_classifier.features.row_tables import Rows

if TYPE_CHECKING:
    from flower_classifier.features.inputs import Inputs

SHARE_OF_GPU = 0.25  # of its free memory, that the rows of a view may take
ROWS_ON_THE_WAY = 1_024  # at a time, to the GPU
EVALUATION_BATCH = 64  # always the same, for the same digits

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, ...), labels (B,)


def batches(
    rows: Rows, labels: torch.Tensor, batch_size: int, device: torch.device, order_seed: int | None = None
) -> Iterator[Batch]:
    """Yield batches of rows (N, ...) and labels (N,) on a device, in an order drawn from `order_seed`, else as is."""
    order = torch.arange(len(labels)) if order_seed is None else shuffled(len(labels), order_seed)
    parts = on_gpu(rows, order, device).split(batch_size) if fits_on_gpu(rows, order, device) else None
    its_labels = labels[order].to(device).split(batch_size)  # at once: each transfer lets a GPU wait
    for place, chosen in enumerate(order.split(batch_size)):
        yield to_learner(rows[chosen] if parts is None else parts[place], device), its_labels[place]


def fits_on_gpu(rows: Rows, order: torch.Tensor, device: torch.device) -> bool:
    """Say whether there is a GPU with plenty of room for all rows (N, ...) of a view."""
    if device.type != "cuda" or not len(order):
        return False
    return rows[order[:1]].nbytes * len(order) <= torch.cuda.mem_get_info(device)[0] * SHARE_OF_GPU


def on_gpu(rows: Rows, order: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return rows (N, ...) on a device, in an order (N,), of which there are never more than a few on the way."""
    first = rows[order[:1]]
    moved = torch.empty(len(order), *first.shape[1:], dtype=first.dtype, device=device)
    for target, chosen in zip(moved.split(ROWS_ON_THE_WAY), order.split(ROWS_ON_THE_WAY), strict=True):
        target.copy_(rows[chosen])
    return moved


def shuffled(number: int, order_seed: int) -> torch.Tensor:
    """Return the numbers from 0 to below `number` in an order drawn from a seed, int64 (N,)."""
    return torch.from_numpy(generator(order_seed).permutation(number))


def to_learner(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring rows (B, ...) to a device in the type that a learner takes: features in float32, pixels as they are."""
    rows = rows.to(device)
    return rows.float() if rows.is_floating_point() else rows


def whole(inputs: Inputs, view: int = 0) -> Iterator[Batch]:
    """Return batches of a view of all photos of a split, in order: what is evaluated on."""
    return batches(inputs.rows(view), inputs.labels, EVALUATION_BATCH, inputs.frozen.device)
