"""Every random choice of a run is a function of what it is for: the seed, the epoch, the view, the photo.

None depends on what was drawn before. So a resumed run needs no generator state, and the number of workers cannot
change a result.
"""

from __future__ import annotations

import hashlib

import numpy as np


def fold_seed(*parts: object) -> int:
    """Hash a seed, and whatever else a choice depends on, into a seed of its own (63 bits)."""
    text = "\0".join(str(part) for part in parts).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*parts: object) -> np.random.Generator:
    """Return numpy's generator for one choice."""
    return np.random.default_rng(fold_seed(*parts))
