"""model.onnx: a checkpoint as one network, from pixels to all that an answer needs; onnxruntime runs it.

Each export is compared on the spot with what torch makes of the checkpoint. With --int8 the backbone computes in 8-bit
numbers, and what that costs in accuracy is measured. Activations are rounded to 256 levels, weights to 128; photos set
the range that the levels divide (static quantisation: Jacob et al. 2018, in onnxruntime's QDQ format). The head and the
distances stay as they are.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from flower_classifier.base.console import progress
from flower_classifier.base.files import sha256_of
from flower_classifier.base.messages import InputError, RunError, counted, megabytes, note, reason_of
from flower_classifier.base.seeding import generator
from flower_classifier.config.allowed import MODEL_FILE
from flower_classifier.judging.strangers import Clusters
from flower_classifier.networks.backbones import source_of
from flower_classifier.networks.checkpoint import Checkpoint
from flower_classifier.networks.classifier import Classifier
from flower_classifier.photos.demo import SPECIES
from flower_classifier.photos.images import ImageError
from flower_classifier.photos.splits import Split, load_labelled
from flower_classifier.photos.views import Preprocessing, open_views
from flower_classifier.predicting.exported_predictor import (
    DISTANCE,
    FEATURES,
    LOGITS,
    PIXELS,
    ExportSpec,
    import_onnxruntime,
    outputs_of,
    session_of,
)

# Version of ONNX's operators. The lowest that torch's exporter writes by itself, so that the oldest runtimes take it;
# 20, 22 and 23 run no faster and are no smaller (docs/export.md)
OPSET = 18
TOLERANCE = 1e-3  # of a logit; where logits are large, of the largest a hundredth of that
PHOTOS_DRAWN = 8  # that torch and onnxruntime are compared on


@dataclass(frozen=True)
class Agreement:
    """How well the answers of torch and of onnxruntime agree on some photos."""

    photos: int
    difference: float  # the largest, of a logit
    allowed: float
    largest: float  # of the logits
    same: int  # photos with the same likeliest class; two logits that are as close as is allowed are a tie

    @property
    def holds(self) -> bool:
        """Whether they are the same network."""
        return self.difference <= self.allowed and self.same == self.photos


def onnx_of(network: WholeNetwork, side: int) -> bytes:
    """Return the contents of a file that computes what a network does, for any number of pictures of `side` pixels.

    Raises RunError where torch's exporter gives up.
    """
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    try:
        with torch.inference_mode(), quiet():
            program = torch.onnx.export(
                network,
                (example,),
                input_names=[PIXELS],
                output_names=list(outputs_of(network.distance is not None)),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            program.save(buffer, external_data=False)  # type: ignore[union-attr, arg-type]  # it is there, and takes files too
    except Exception as error:  # of any kind: a network that the exporter cannot follow
        raise RunError(f"torch cannot export this architecture to ONNX: {reason_of(error)}") from error
    return buffer.getvalue()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's logs and warnings: the comparison says whether the file is right."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def compare(network: WholeNetwork, model: bytes, preprocessing: Preprocessing) -> Agreement:
    """Ask torch and onnxruntime for the logits of drawn photos, each once alone and once among all."""
    pixels = drawn_photos(preprocessing)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels))[0].numpy()  # (N, C)
    session = session_of(model, MODEL_FILE)
    among_all = session.run([LOGITS], {PIXELS: pixels})[0]
    alone = np.concatenate([session.run([LOGITS], {PIXELS: photo[None]})[0] for photo in pixels])
    largest = float(np.abs(expected).max())
    allowed = max(TOLERANCE, TOLERANCE / 100 * largest)
    predicted = np.take_along_axis(expected, among_all.argmax(axis=1)[:, None], axis=1)[:, 0]
    same = int((predicted >= expected.max(axis=1) - allowed).sum())
    difference = float(max(np.abs(logits - expected).max() for logits in (among_all, alone)))
    return Agreement(len(pixels), difference if np.isfinite(difference) else np.inf, allowed, largest, same)


def drawn_photos(preprocessing: Preprocessing) -> np.ndarray:
    """Return the plain views of a few drawn flowers, uint8 (N, S, S, 3)."""
    species, rng = list(SPECIES.values()), generator("export", "drawn")
    pictures = [species[i % len(species)].draw(rng, 256) for i in range(PHOTOS_DRAWN)]
    return np.concatenate([open_views(picture, preprocessing) for picture in pictures])


def pattern_of(model: bytes, side: int, closeness: float = 0.01) -> dict[str, object]:
    """Return what a network answers to a picture of coloured stripes, `side` pixels a side; network.js draws it too.

    `closeness`: the tolerance for other processors, which add in another order, as a share of the largest logit.
    """
    y, x, c = np.ogrid[:side, :side, :3]
    pixels = ((3 * x + 5 * y + 80 * c) % 256).astype(np.uint8)
    session = session_of(model, MODEL_FILE)
    outputs = dict(
        zip((output.name for output in session.get_outputs()), session.run(None, {PIXELS: pixels[None]}), strict=True)
    )
    logits = outputs[LOGITS][0].astype(float).tolist()
    distance = float(outputs[DISTANCE][0]) if DISTANCE in outputs else None
    return {
        "logits": logits,  # (C,)
        "tolerance": max(0.05, closeness * max(map(abs, logits))),
        "distance": distance,
        "distance_tolerance": max(1.0, closeness * abs(distance or 0.0)),
    }


# ---------------------------------------------------------------------------------------------------------- the network


class WholeNetwork(nn.Module):
    """Takes uint8 pixels (B, S, S, 3) to logits (B, C), features (B, D) and, where they are known, distances (B,).

    All in float32, on the CPU. With --mirror it makes the mirror images itself, so an answer is one forward.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        classifier = checkpoint.classifier
        self.mirror, self.features_of = classifier.config.mirror, classifier.features_of
        self.normalisation = Normalisation(classifier)
        # With batch norms folded: smaller, faster to load, as good in int8
        side = classifier.preprocessing.crop_size
        self.backbone = source_of(classifier.config.arch).folded(classifier.backbone, side)
        self.head = classifier.head
        memory = None if checkpoint.trust.stranger_scores is None else checkpoint.trust.feature_bank
        self.distance = None if memory is None else Distance(Clusters(memory, checkpoint.trust.stranger_measure))
        self.eval()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take pixels to logits, features and perhaps distances."""
        images = self.normalisation(pixels)  # (B, 3, S, S)
        features = self.features_of(self.backbone(images))
        logits = self.head(features)
        if self.mirror:
            mirrored = self.features_of(self.backbone(images.flip(-1)))
            features, logits = (features + mirrored) / 2, (logits + self.head(mirrored)) / 2
        return (logits, features) if self.distance is None else (logits, features, self.distance(features))


class Normalisation(nn.Module):
    """Takes uint8 pixels (B, S, S, 3) to float32 images (B, 3, S, S), normalised as the backbone was trained.

    A module, so that its buffers get names with a dot. As buffers of the whole network they would be called like
    operations: onnxscript 0.5 would name a buffer and a pooling layer `mean`, and onnxruntime refuses such a file.
    """

    mean: torch.Tensor  # (3, 1, 1), as is the deviation
    std: torch.Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.register_buffer("mean", classifier.mean)
        self.register_buffer("std", classifier.std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Take pixels to images."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std


class Distance(nn.Module):
    """How far features (B, D) are from the classes, (B,): Clusters.distances, in float32.

    Those of float64 were at most 1e-4 away, with validation photos typically 0.3 apart (102 flowers, two backbones).
    """

    origin: torch.Tensor  # (D,)
    axes: torch.Tensor  # (D, K)
    centre: torch.Tensor  # (K,)
    to_class: torch.Tensor  # (K, K)
    to_all: torch.Tensor  # (K, K)
    means: torch.Tensor  # (C, K)

    def __init__(self, clusters: Clusters) -> None:
        super().__init__()
        memory = clusters.memory
        numbers = {
            "origin": memory.centre,
            "axes": memory.own_axes,
            "centre": clusters.centre,
            "to_class": clusters.to_class,
            "to_all": clusters.to_all * math.sqrt(clusters.measure.background),
            "means": clusters.means,
        }
        for name, tensor in numbers.items():
            self.register_buffer(name, tensor.float())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Take features to distances."""
        points = (torch.nn.functional.normalize(features, dim=1) - self.origin) @ self.axes  # (B, K)
        to_classes = ((points @ self.to_class)[:, None] - self.means).square().sum(dim=2)  # (B, C)
        to_all = ((points - self.centre) @ self.to_all).square().sum(dim=1)
        return to_classes.amin(dim=1) - to_all


# ----------------------------------------------------------------------------------------------------- in 8-bit numbers


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
    by_class = sorted(range(len(split)), key=split.labels.__getitem__)  # so that both halves have photos of every class
    odd, even = by_class[1::2], by_class[::2]
    calibrating = even[:: -(-len(even) // MOST_CALIBRATING)]
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

    quantization: Any = import_onnxruntime("onnxruntime.quantization")
    quant_pre_process = import_onnxruntime("onnxruntime.quantization.shape_inference").quant_pre_process

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
