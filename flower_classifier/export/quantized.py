"""--int8: a network in 8-bit numbers, a quarter as large, and what that costs in accuracy.

Weights and what flows between the layers are rounded to 256 levels, whose range photos decide about (static
quantisation: Jacob et al. 2018, by onnxruntime's QDQ format). The head and the distances stay as they are.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from flower_classifier.base.errors import InputError
from flower_classifier.base.messages import note, progress
from flower_classifier.base.words import counted, megabytes
from flower_classifier.export.card import Card
from flower_classifier.export.exported_predictor import BATCH, INPUT, OUTPUTS, session_of
from flower_classifier.export.onnx_model import pattern_logits, quiet
from flower_classifier.judging.exported_folder import MODEL_FILE
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.splits import Split, load_labelled
from flower_classifier.photos.views import open_views

MOST_CALIBRATING = 256  # photos: more hardly move a range
FEWEST = 10  # photos in each half
QUANTISED = ("Conv", "MatMul", "Gemm", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip")


def in_8_bits(model: bytes, card: Card, folder: Path) -> tuple[bytes, Card]:
    """Return the network in 8 bits and its card, and say how accurate both are on half of the photos in a folder.

    The folder has one folder of photos per class; the other half of them set the ranges. Raises InputError for too few.
    """
    calibrating, judged = halves(load_labelled(folder, card.classes), card)
    smaller = quantised(model, [pixels for pixels, _ in calibrating[:MOST_CALIBRATING]])
    before, after = (accuracy(network, judged) for network in (model, smaller))
    photos = counted(len(judged), "photo")
    note(f"in 8 bits {megabytes(len(smaller))} instead of {megabytes(len(model))}; of {photos} that set no range,")
    note(f"  {after:.1%} are named rightly, instead of {before:.1%}: {100 * (after - before):+.1f} points")
    provenance = {**card.provenance, "numbers": "int8", "accuracy": after, "accuracy_in_float32": before}
    return smaller, replace(
        card,
        model_sha256=hashlib.sha256(smaller).hexdigest(),
        pattern_logits=pattern_logits(smaller, card.preprocessing.crop_size),
        provenance=provenance,
    )


Labelled = list[tuple[np.ndarray, int]]  # uint8 (S, S, 3), and the class


def halves(split: Split, card: Card) -> tuple[Labelled, Labelled]:
    """Return the plain views of every other photo, and of the others. Photos that cannot be opened are left out."""
    parts: tuple[Labelled, Labelled] = ([], [])
    with progress(len(split), "photos", "photo") as bar:
        for place, (path, label) in enumerate(zip(split.photos, split.labels, strict=True)):
            bar.update()
            try:
                view = open_views(split.root / path, card.preprocessing)[0]
            except ImageError as error:
                note(f"left out: {error}")
                continue
            parts[place % 2].append((view, label))
    if min(map(len, parts)) < FEWEST:
        raise InputError(f"needs at least {2 * FEWEST} photos, half of them to judge by", "int8")
    return parts


def quantised(model: bytes, calibrating: Sequence[np.ndarray]) -> bytes:
    """Return a network in 8 bits, with ranges that hold what these photos (S, S, 3) make of it."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        waiting = iter(calibrating)

        def get_next(self) -> dict[str, np.ndarray] | None:
            pixels = next(self.waiting, None)
            return None if pixels is None else {INPUT: pixels[None]}

    with tempfile.TemporaryDirectory() as folder, quiet():
        before, prepared, after = (Path(folder) / f"{name}.onnx" for name in ("before", "prepared", "after"))
        before.write_bytes(model)
        quant_pre_process(before, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantization.quantize_static(
            prepared,
            after,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=behind_features(graph),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
        return after.read_bytes()


def behind_features(graph: object) -> list[str]:
    """Return the names of the nodes that only features lead to: the head and the distances."""
    reached, names = {OUTPUTS[1]}, []
    for node in graph.node:  # in an order in which each comes after those it needs
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


def accuracy(model: bytes, judged: Labelled) -> float:
    """Return the share of photos that a network names rightly, 0 to 1."""
    session, right = session_of(model, MODEL_FILE), 0
    for start in range(0, len(judged), BATCH):
        pixels, labels = zip(*judged[start : start + BATCH], strict=True)
        logits = session.run([OUTPUTS[0]], {INPUT: np.stack(pixels)})[0]
        right += int((logits.argmax(axis=1) == np.array(labels)).sum())
    return right / len(judged)
