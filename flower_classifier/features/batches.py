"""Batches for training: of a split's rows, or of its photos.

Rows are on the device that learns. Photos are for a network that is fine-tuned: they are cut and coloured anew in every
epoch, and never kept. They are read in blocks, on every core, and the network waits meanwhile: on a CPU it needs the
same cores.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from flower_classifier.base.seeding import fold_seed, generator
from flower_classifier.features.extraction import ordered_parallel_map
from flower_classifier.features.feature_cache import Rows
from flower_classifier.features.inputs import Inputs, UnusablePhotosError
from flower_classifier.networks.job import current_job
from flower_classifier.photos.images import ImageError

SHARE_OF_GPU = 0.25  # of its free memory: what the rows of a view may take
ROWS_ON_THE_WAY = 1_024  # at a time, to the GPU
EVALUATION_BATCH = 64  # always the same, for the same digits

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, ...), labels (B,)


def batches(
    rows: Rows, labels: torch.Tensor, batch_size: int, device: torch.device, order_seed: int | None = None
) -> Iterator[Batch]:
    """Yield batches of rows (N, ...) and labels (N,) on a device, in an order drawn from `order_seed`, else as is."""
    order = torch.arange(len(labels)) if order_seed is None else shuffled(len(labels), order_seed)
    for_gpu = device.type == "cuda" and len(order) > 0
    fits = for_gpu and rows[order[:1]].nbytes * len(order) <= torch.cuda.mem_get_info(device)[0] * SHARE_OF_GPU
    row_batches = on_gpu(rows, order, device).split(batch_size) if fits else None
    label_batches = labels[order].to(device).split(batch_size)  # at once: each transfer lets a GPU wait
    for batch, indices in enumerate(order.split(batch_size)):
        yield to_learner(rows[indices] if row_batches is None else row_batches[batch], device), label_batches[batch]


def on_gpu(rows: Rows, order: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy rows (N, ...) to the device in this order (N,), ROWS_ON_THE_WAY at a time."""
    first = rows[order[:1]]
    moved = torch.empty(len(order), *first.shape[1:], dtype=first.dtype, device=device)
    for target, indices in zip(moved.split(ROWS_ON_THE_WAY), order.split(ROWS_ON_THE_WAY), strict=True):
        target.copy_(rows[indices])
    return moved


def shuffled(count: int, order_seed: int) -> torch.Tensor:
    """Return the numbers from 0 to below `count` in an order drawn from a seed, int64 (N,)."""
    return torch.from_numpy(generator(order_seed).permutation(count))


def to_learner(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring rows (B, ...) to a device in the type that a learner takes: features in float32, pixels as they are."""
    rows = rows.to(device)
    return rows.float() if rows.is_floating_point() else rows


def whole(inputs: Inputs, view: int = 0) -> Iterator[Batch]:
    """Return batches of one view of all photos of a split, in order, for evaluation."""
    return batches(inputs.rows(view), inputs.labels, EVALUATION_BATCH, inputs.frozen.device)


# ----------------------------------------------------------------------------------------------- photos, augmented anew


BLOCK = 256  # photos that are read at a time: more would only take memory
COLOUR = 0.2  # brightness, contrast and saturation change by at most this share
GREY = (0.299, 0.587, 0.114)  # weights of R, G and B in a pixel's brightness: ITU-R BT.601


def fresh_batches(inputs: Inputs, batch_size: int, epoch: int) -> Iterator[Batch]:
    """Yield batches of pixels, uint8 (B, 3, S, S), and labels (B,) on the device: all photos, in the epoch's order.

    Each photo is a random view in other colours, or without augmentation the plain one: functions of seed, epoch and
    the photo's name. In a job these are this process's share of each batch, which may be empty. Raises
    UnusablePhotosError for photos that could be opened before.
    """
    used, labels, device, job = inputs.used, inputs.labels, inputs.frozen.device, current_job()
    order = shuffled(len(used), fold_seed(inputs.augmentation.seed, "shuffle", epoch))
    rank, processes = (job.rank, job.size) if job else (0, 1)
    shares = [batch[rank::processes] for batch in order.split(batch_size)]
    together = max(BLOCK * processes // batch_size, 1)  # batches that are read at a time
    for first in range(0, len(shares), together):
        block = shares[first : first + together]
        pixels = read_augmented(inputs, [used[index] for batch in block for index in batch.tolist()], epoch)
        for batch, indices in zip(pixels.split([len(batch) for batch in block]), block, strict=True):
            yield batch.to(device), labels[indices].to(device)


def read_augmented(inputs: Inputs, indices: Sequence[int], epoch: int) -> torch.Tensor:
    """Open photos on every core; return each as it is cut and coloured in this epoch, uint8 (N, 3, S, S)."""
    augmentation, is_varied = inputs.augmentation, inputs.augmentation.kind != "none"
    view = augmentation.first_random + epoch if is_varied else 0  # lower views are of cached features

    def open_augmented(index: int) -> np.ndarray | ImageError:
        try:
            pixels = inputs.open_photo(index, [view])[0]
        except ImageError as error:
            return error.bare()
        if not is_varied:
            return pixels
        return recoloured(pixels, generator(augmentation.seed, "colour", epoch, inputs.split.photos[index]))

    # The CPU's workers also where there is a GPU: it does nothing here
    opened = list(ordered_parallel_map(open_augmented, [(index,) for index in indices], torch.device("cpu")))
    if errors := [result for result in opened if isinstance(result, ImageError)]:
        raise UnusablePhotosError(errors, "repair them, and resume")
    photos = [result for result in opened if isinstance(result, np.ndarray)]
    side = inputs.frozen.preprocessing.crop_size
    pixels = np.stack(photos) if photos else np.empty((0, side, side, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def recoloured(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 (S, S, 3) a little brighter or darker, with more or less contrast, paler or more colourful."""
    brightness, contrast, saturation = 1 + rng.uniform(-COLOUR, COLOUR, 3).astype(np.float32)
    values = pixels.astype(np.float32)  # (S, S, 3)
    grey = values @ np.array(GREY, np.float32)  # (S, S)
    middle = grey.mean()
    # saturation moves a pixel from its own grey, contrast everything from the photo's
    values = grey[..., None] + saturation * (values - grey[..., None])
    values = brightness * (middle + contrast * (values - middle))
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
