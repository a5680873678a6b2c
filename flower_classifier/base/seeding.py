"""Every random choice of a run is a function of its key: the seed, the epoch, the view, the photo.

No choice depends on what was drawn before. So a resumed run needs no generator state, and the number of workers cannot
change a result.
"""

import hashlib

import numpy as np


def fold_seed(*key: object) -> int:
    """Hash a seed, and whatever else a choice depends on, into the seed of this choice (63 bits)."""
    text = "\0".join(map(str, key)).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*key: object) -> np.random.Generator:
    """Return numpy's generator for one choice."""
    return np.random.default_rng(fold_seed(*key))
