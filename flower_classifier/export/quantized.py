"""--int8: a network whose backbone computes in 8-bit numbers, and what that costs in accuracy.

Activations are rounded to 256 levels, weights to 128; photos set the range that the levels divide (static quantisation:
Jacob et al. 2018, in onnxruntime's QDQ format). The head and the distances stay as they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flower_classifier.base.console import note, progress
from flower_classifier.base.errors import InputError
from flower_classifier.base.files import sha256_of
from flower_classifier.base.text import counted, megabytes
from flower_classifier.config.allowed import MODEL_FILE
from flower_classifier.export.onnx_model import pattern_of, quiet
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.splits import Split, load_labelled
from flower_classifier.photos.views import open_views
from flower_classifier.predicting.exported_predictor import FEATURES, LOGITS, PIXELS, ExportSpec, session_of

MOST_CALIBRATING = 256  # photos: more hardly move a range
FEWEST = 20  # photos, of both halves
OTHER_PROCESSORS = 0.2  # how far off, as a share of the largest logit: without 8-bit instructions they round otherwise
QUANTISED = ("Conv", "MatMul", "Gemm", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip")


def in_8_bits(model: bytes, spec: ExportSpec, folder: Path) -> tuple[bytes, ExportSpec]:
    """Return the network in 8 bits and its spec, and say how accurate both are on half of the photos in a folder.

    The folder has one folder of photos per class. Some of the other half set the ranges. Raises InputError for too few.
    """
    split = load_labelled(folder, spec.classes)
    if len(split) < FEWEST:
        raise InputError(f"needs at least {FEWEST} photos, half of them to judge by", "int8")
    odd, even = range(1, len(split), 2), range(0, len(split), 2)
    calibrating = even[:: -(-len(even) // MOST_CALIBRATING)]  # of all classes, which come one after the other
    smaller = quantised(model, (pixels for pixels, _ in views_of(split, calibrating, spec)))
    before, after, photos = compared(model, smaller, views_of(split, odd, spec))
    note(f"in 8 bits {megabytes(len(smaller))} instead of {megabytes(len(model))}")
    named, points = f"{after:.1%} are named rightly, instead of {before:.1%}", 100 * (after - before)
    note(f"of {counted(photos, 'photo')} that set no range, {named}: {points:+.1f} points")
    return smaller, replace(
        spec,
        model_sha256=sha256_of(smaller),
        pattern=pattern_of(smaller, spec.preprocessing.crop_size, closeness=OTHER_PROCESSORS),
        provenance={**spec.provenance, "numbers": "int8", "accuracy": after, "accuracy_in_float32": before},
    )


def views_of(split: Split, indices: Sequence[int], spec: ExportSpec) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the plain view, uint8 (S, S, 3), and the class of some photos; those that cannot be opened are named."""
    with progress(len(indices), "photos", "photo") as bar:
        for index in indices:
            bar.update()
            try:
                yield open_views(split.path(index), spec.preprocessing)[0], split.labels[index]
            except ImageError as error:
                note(f"left out: {error}")


def compared(model: bytes, smaller: bytes, judged: Iterator[tuple[np.ndarray, int]]) -> tuple[float, float, int]:
    """Return the share of photos that each of two networks names rightly, 0 to 1, and the number of photos."""
    sessions, right, photos = [session_of(network, MODEL_FILE) for network in (model, smaller)], [0, 0], 0
    for pixels, label in judged:
        photos += 1
        for i, session in enumerate(sessions):
            right[i] += int(session.run([LOGITS], {PIXELS: pixels[None]})[0].argmax() == label)
    if not photos:
        raise InputError("has no photos to judge by that can be opened", "int8")
    return right[0] / photos, right[1] / photos, photos


def quantised(model: bytes, calibrating: Iterator[np.ndarray]) -> bytes:
    """Return a network in 8 bits, with ranges for the activations on these photos (S, S, 3)."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            pixels = next(calibrating, None)
            return None if pixels is None else {PIXELS: pixels[None]}

    with tempfile.TemporaryDirectory() as folder, quiet():
        before, prepared, after = (Path(folder) / f"{name}.onnx" for name in ("before", "prepared", "after"))
        before.write_bytes(model)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        reached, behind = {FEATURES}, []  # nodes that depend on the features: the head and the distances
        for node in onnx.load(prepared).graph.node:  # in an order in which each comes after those it needs
            if reached & set(node.input):
                reached |= set(node.output)
                behind.append(node.name)
        quantization.quantize_static(
            prepared,
            after,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=behind,
            per_channel=True,
            reduce_range=True,  # to 7 bits: sums of 8-bit products overflow on processors without instructions for them
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
        return after.read_bytes()
