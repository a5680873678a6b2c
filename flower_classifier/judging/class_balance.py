"""When classes are so unequal that an average over photos hides the small ones, and what is asked instead.

A mean over photos is one over classes where photo i of class c weighs N / (C · n_c): the balanced accuracy (Brodersen
et al. 2010) is the weighted share that is right, the balanced loss the weighted mean of the losses.
"""

from collections.abc import Sequence

import torch

# Times the smallest class, from which on the mean over classes chooses: it gains from 5 on, and costs little at 3
# (docs/measurements.md)
MUCH_LARGER = 3


def are_unequal(sizes: Sequence[int]) -> bool:
    """Say whether the largest class has MUCH_LARGER times the photos of the smallest. Classes without any are none."""
    present = [size for size in sizes if size]
    return bool(present) and max(present) >= MUCH_LARGER * min(present)


def balancing_weights(labels: torch.Tensor) -> torch.Tensor:
    """Return what each photo with these labels (N,) weighs, float64 (N,), if every class weighs the same; mean 1."""
    counts = labels.bincount().double()
    return len(labels) / (int((counts > 0).sum()) * counts[labels])
