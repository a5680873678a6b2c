"""What goes into model.onnx and what comes out, by name. network.js knows the same names."""

from __future__ import annotations

PIXELS = "pixels"  # uint8 (B, S, S, 3): height, width, red-green-blue
LOGITS = "logits"  # float32 (B, C)
FEATURES = "features"  # float32 (B, D), what the head sees
DISTANCE = "distance"  # float32 (B,), from the training photos (strangers.py)


def outputs_of(tells_strangers: bool) -> tuple[str, ...]:
    """Return the outputs' names, in the order of the file; the distance is there where strangers can be told."""
    return (LOGITS, FEATURES, DISTANCE) if tells_strangers else (LOGITS, FEATURES)
